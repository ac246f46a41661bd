# docker build -t et-pipeline .
# docker run --rm -u "$(id -u)" -v "$PWD":/work -v et-cache:/cache et-pipeline experiment=demo
# docker run --rm -u "$(id -u)" -v "$PWD":/work -it --entrypoint et-bundle et-pipeline chat bundles/...
ARG BASE=python:3.13-slim

FROM ${BASE} AS built
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY et_pipeline et_pipeline
COPY hydra_plugins hydra_plugins
COPY conf conf
RUN python3 -m venv /venv && /venv/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM ${BASE}
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /dist/
COPY --from=built /dist /dist
# Torch's CPU build is a tenth of the default one; where its index cannot be reached the default one is taken.
RUN python3 -m venv /opt/et_pipeline \
    && /opt/et_pipeline/bin/pip install --no-cache-dir --no-deps --extra-index-url "${TORCH_CPU_INDEX}" \
        -c /dist/constraints.txt torch \
    && /opt/et_pipeline/bin/pip install --no-cache-dir -c /dist/constraints.txt /dist/*.whl \
    && mkdir -m 1777 /cache
ENV PATH=/opt/et_pipeline/bin:$PATH \
    ET_PIPELINE_CACHE=/cache/et_pipeline \
    HF_HOME=/cache/huggingface \
    HOME=/tmp
WORKDIR /work
ENTRYPOINT ["et-pipeline"]
