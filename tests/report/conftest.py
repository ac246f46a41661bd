"""A folder as people have them: good bundles, failed ones, broken ones, and what is none."""

import pytest
from made_bundle import PTE, make_embedding_manifest, make_gate, make_manifest, write_files

from et_pipeline import manifest as bundle
from et_pipeline.bundle import write_zip

ODD = 'o&d "d" <b>#1%'
SCRIPT = "<script>alert(1)</script>"
LINK = '<a href="//x.y">z</a>'


def put(folder, kilobytes=9, kl=0.03, decode=100.0, passed=True, model="alpha", recipe="8da4w-g32", made=make_manifest):
    """A bundle of some size, with some figures."""
    write_files(folder)
    (folder / PTE).write_bytes(bytes(1000 * kilobytes))
    base = made(bundle.describe_files(folder))
    changes = {
        "what": base.what.model_copy(update={"settings": {"model": {"name": model}}}),
        "programs": [base.main.model_copy(update={"recipe": recipe})],
        "quality": base.quality.model_copy(update={"gate": make_gate(passed)}),
    }
    if base.quality.agreement is not None:
        near = base.quality.agreement.original.token_by_token.model_copy(
            update={"kl": kl, "kl_interval": [kl / 2, kl * 2]}
        )
        ways = base.quality.agreement.original.model_copy(update={"token_by_token": near})
        agreement = base.quality.agreement.model_copy(update={"original": ways})
        changes["quality"] = changes["quality"].model_copy(update={"agreement": agreement, "text": None})
        spread = bundle.Percentiles(p10=0.9 * decode, p50=decode, p90=1.1 * decode)
        changes["speed"] = [base.speed[0].model_copy(update={"decode_tok_s": spread})]
    bundle.write(base.model_copy(update=changes), folder)
    return folder


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    put(folder / "alpha-g32")
    put(folder / "alpha-8", kilobytes=18, kl=0.001, decode=80.0, recipe="8da8w")
    put(folder / "alpha-beaten", kilobytes=19, kl=0.002, decode=70.0, recipe="8da8w_rotation")
    put(folder / "alpha-failed", kilobytes=8, kl=0.5, passed=False, recipe="int4_weight_only")
    put(folder / "deep" / "er" / "beta-fp32", kilobytes=80, kl=1e-12, decode=40.0, model="beta", recipe="fp32")
    put(folder / ODD, kilobytes=12, kl=0.01, decode=90.0, model=SCRIPT, recipe=LINK)
    put(folder / "vectors", made=make_embedding_manifest, model="minilm")

    several = put(folder / "for-chips", kilobytes=17, kl=0.004, model="beta")
    made = bundle.read(several)
    chip = made.main.model_copy(
        update={
            "backend": "qnn",
            "soc": ["SM8650"],
            "executed": False,
            "quality": bundle.Quality(gate=make_gate(True)),
            "memory": made.memory,
        }
    )
    bundle.write(made.model_copy(update={"programs": [chip, made.main]}), several)

    write_zip(put(folder / "packed" / "beta-g32", kilobytes=10, model="beta"), folder / "packed" / "beta.zip")
    (put(folder / "short") / PTE).write_bytes(b"cut off")
    (folder / "extension").mkdir()
    (folder / "extension" / "manifest.json").write_text('{"manifest_version": 3}')
    (folder / "photos.zip").write_text("no zip")
    put(folder / "half.x7.tmp" / "inside")
    return folder
