"""The picture of a plan."""

from xml.etree import ElementTree

from et_pipeline.forecast import Plan
from et_pipeline.report.plots import WIDTH, survey_svg
from et_pipeline.survey import Survey

SVG = "{http://www.w3.org/2000/svg}"
PLAN = Plan(
    model="a<b",
    recipe="four",
    device="Phone",
    family="llama",
    parameters=1000,
    download_bytes=0,
    fp16_bytes=2000,
    pte_bytes=1_000_000_000,
    max_context=512,
    kv_cache_bytes=100_000_000,
    kv_by_context={512: 100_000_000},
    resident_bytes=1_600_000_000,
    limit_bytes=2_000_000_000,
    ram_bytes=4_000_000_000,
    roofline_tok_s=20.0,
    decode_tok_s=10.0,
    decode_full_tok_s=9.0,
    prefill_tok_s=100.0,
    prompt_tokens=64,
    ttft_s=0.7,
    export_cpu_s=100,
    export_peak_bytes=2_000_000_000,
    host_bytes=0,
)
LARGE = PLAN.model_copy(update={"recipe": "large", "pte_bytes": 8_000_000_000, "resident_bytes": 8_600_000_000})


def drawn(survey):
    root = ElementTree.fromstring(survey_svg(survey))
    assert root.tag == f"{SVG}svg"
    for box in root.iter(f"{SVG}rect"):
        assert float(box.get("x", 0)) + float(box.get("width")) <= WIDTH
    return [text.text for text in root.iter(f"{SVG}text")]


def test_recipes_of_a_device():
    texts = drawn(Survey(over="recipe", chosen=PLAN, plans=(PLAN, LARGE)))
    assert texts[0] == "a<b on Phone"
    assert {"four", "large", "1.60 GB", "8.60 GB", "10.0", "10.0 (no)"} <= set(texts)


def test_devices():
    small = PLAN.model_copy(update={"device": "Small", "limit_bytes": 1_500_000_000})
    texts = drawn(Survey(over="device", chosen=None, plans=(PLAN, small)))
    assert texts[0] == "a<b on every device, four"
    assert {"Phone", "Small", "10.0 (over app limit)"} <= set(texts)


def test_the_forecast_is_called_one():
    assert "Forecast from shapes, not measured." in drawn(Survey(over="recipe", chosen=PLAN, plans=(PLAN,)))
