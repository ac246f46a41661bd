"""The two commands: `et-pipeline`, and in `bundle/` `et-bundle`."""


def main() -> None:
    """Console entry of `et-pipeline`."""
    from et_pipeline.cli import pipeline  # with Hydra, which et-bundle does without

    pipeline.main()
