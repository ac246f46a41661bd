"""Pictures, as SVG written by hand: a few bars need no plotting library, and the project depends on none."""

from __future__ import annotations

from xml.sax.saxutils import escape

from et_pipeline.forecast import Plan
from et_pipeline.report.plan_tables import verdict
from et_pipeline.report.words import size
from et_pipeline.survey import Survey

WIDTH, LABEL, PANEL, GAP, ROW, TOP = 1080, 250, 340, 80, 34, 92
# Colours that people with any kind of colour vision tell apart (Okabe and Ito), on white in light and dark viewers.
WEIGHTS, CACHE, AROUND, SPEED, LIMIT = "#0072b2", "#56b4e9", "#d9d9d9", "#009e73", "#d55e00"
NO_USE = "#bbbbbb"


def survey_svg(survey: Survey) -> str:
    """Draw memory and speed of every plan, a row each.

    The left bar is the app's memory: the .pte, the KV cache, and what is around them; a line marks the limit per app.
    The right bar is the expected decode speed, or how many texts a model for embeddings takes per second.
    """
    plans = survey.plans
    height = TOP + ROW * len(plans) + 66
    most = 1.06 * max(max(plan.resident_bytes for plan in plans), max(plan.limit_bytes for plan in plans))
    fastest = 1.5 * max(plan.pace for plan in plans)
    shown = (survey.chosen or plans[0]).model
    where = survey.chosen.device if survey.chosen else f"every device, {plans[0].recipe}"
    right = LABEL + PANEL + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#222">',
        f"<title>{escape(shown)} on {escape(where)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        words(16, 30, f"{shown} on {where}", 'font-size="18" font-weight="600"'),
        words(16, 50, "Forecast from shapes, not measured.", 'fill="#666"'),
        words(LABEL, 78, f"App memory at a context of {plans[0].max_context}", 'font-weight="600"'),
        words(right, 78, _pace_name(plans[0]), 'font-weight="600"'),
    ]
    for row, plan in enumerate(plans):
        parts += _row(survey, plan, TOP + ROW * row, most, fastest, right)
    bottom = TOP + ROW * len(plans)
    legend = [(WEIGHTS, ".pte"), (CACHE, "KV cache"), (AROUND, "app around them"), (LIMIT, "limit per app")]
    legend += [(SPEED, "speed"), (NO_USE, "speed, if it did fit")]
    x = float(LABEL)
    for colour, name in legend:
        parts.append(f'<rect x="{x:.0f}" y="{bottom + 24}" width="12" height="12" fill="{colour}"/>')
        parts.append(words(x + 18, bottom + 35, name, 'fill="#444"'))
        x += 34 + 7.2 * len(name)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _pace_name(plan: Plan) -> str:
    return f"Texts of {plan.prompt_tokens} tokens per second" if plan.embeds else "Decode, tokens per second"


def _row(survey: Survey, plan: Plan, y: int, most: float, fastest: float, right: int) -> list[str]:
    name = plan.device if survey.over == "device" else plan.recipe
    chosen = survey.chosen is not None and plan.recipe == survey.chosen.recipe
    weight = ' font-weight="600"' if chosen else ""
    parts = [words(LABEL - 12, y + 19, name if len(name) < 34 else name[:32] + "…", f'text-anchor="end"{weight}')]
    x = float(LABEL)
    weights = plan.pte_bytes - plan.table_bytes
    around = plan.resident_bytes - weights - plan.kv_cache_bytes
    for colour, count in ((WEIGHTS, weights), (CACHE, plan.kv_cache_bytes), (AROUND, around)):
        wide = PANEL * count / most
        parts.append(f'<rect x="{x:.1f}" y="{y + 4}" width="{wide:.1f}" height="{ROW - 12}" fill="{colour}"/>')
        x += wide
    at = LABEL + PANEL * plan.limit_bytes / most
    parts.append(
        f'<line x1="{at:.1f}" y1="{y - 2}" x2="{at:.1f}" y2="{y + ROW - 4}" stroke="{LIMIT}" stroke-width="2" '
        'stroke-dasharray="5 4"/>'
    )
    halo = 'stroke="#fff" stroke-width="4" paint-order="stroke"'  # the limit may run through the figure
    parts.append(words(x + 6, y + 19, size(plan.resident_bytes), halo))
    wide = (WIDTH - right - 20) * plan.pace / fastest
    colour = SPEED if plan.fits else NO_USE
    parts.append(f'<rect x="{right}" y="{y + 4}" width="{wide:.1f}" height="{ROW - 12}" fill="{colour}"/>')
    speed = f"{plan.pace:,.1f}" + ("" if plan.fits else f" ({verdict(plan).plain})")
    parts.append(words(right + wide + 6, y + 19, speed, ""))
    return parts


def words(x: float, y: float, text: str, style: str) -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'.replace(" >", ">")
