"""What the documents say is what was measured."""

from pathlib import Path

from et_pipeline.bench import docs

ROOT = Path(__file__).parents[2]


def test_pages_and_pictures_are_made_from_the_results():
    for path, text in docs.render(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make docs"
