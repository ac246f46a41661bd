"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const body = document.querySelector("#table tbody");
  const rows = [...body.rows]; // stays in the order of data.points
  const models = [...new Set(data.points.map((point) => point.model))];
  // Okabe and Ito's colours, which people with any kind of colour vision tell apart, in light and dark.
  const colours = ["#3387c0", "#d55e00", "#009e73", "#cc79a7", "#d08f00", "#56b4e9", "#9a6a5e", "#8a8a8a"];
  const colourOf = (model) => colours[models.indexOf(model) % colours.length];
  const chosen = (id) => at(id)?.value ?? ""; // a folder of one model has no choice of models
  // plotly takes a few tags and addresses in its texts for markup
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function filter() {
    const words = chosen("words").toLowerCase().split(/\s+/);
    const model = chosen("model");
    rows.forEach((row, i) => {
      const text = row.textContent.toLowerCase();
      const point = data.points[i];
      row.hidden = !(
        words.every((word) => text.includes(word)) &&
        (!model || point.model === model) &&
        (point.passed || !at("passed").checked)
      );
    });
    at("count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
    draw();
  }

  function sort(head) {
    const column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const each of head.parentNode.cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const text = head.classList.contains("text");
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => (text ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    const sorted = [...rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (!a || !b) return !a - !b; // what is not known comes last, either way
      return up ? order(a, b) : order(b, a);
    });
    body.append(...sorted);
  }

  // How a figure is drawn: on a logarithm where the most is far above the least.
  function axis(name, shown) {
    const metric = data.metrics[name];
    const floor = metric.floor ?? 0; // of a KL that is nearly 0
    const values = shown.flatMap((i) => {
      const figure = data.points[i].figures[name];
      return [figure.value, ...(figure.interval ?? [])];
    });
    const most = Math.max(...values);
    const log = Math.max(Math.min(...values), floor) > 0 && most > 20 * Math.max(Math.min(...values), floor);
    const least = Math.max(Math.min(...values), log ? floor : -Infinity);
    const place = (value) => (log ? Math.log10(Math.max(value, floor)) : value);
    const span = place(most) - place(least) || Math.abs(most) || 1;
    const range = [place(least) - 0.2 * span, place(most) + 0.1 * span];
    return {
      less: metric.less,
      drawn: (value) => (log ? Math.max(value, floor) : value),
      part: (value) => (place(value) - range[0]) / (range[1] - range[0]),
      layout: {
        title: { text: metric.title },
        type: log ? "log" : "linear",
        range,
        ...(log && { dtick: span < 4 ? "D2" : 1 }),
        tickformat: metric.bytes ? ".3~s" : ",.4~r",
        zeroline: false,
        automargin: true,
      },
    };
  }

  function draw() {
    const picture = at("picture");
    if (!picture.clientWidth) return; // a bundle's own part is shown
    const [x, y, scope] = [chosen("x"), chosen("y"), chosen("scope") || "all"];
    const front = new Set((data.fronts[`${x}|${y}`] ?? data.fronts[`${y}|${x}`])?.[scope]);
    const known = (i) => x in data.points[i].figures && y in data.points[i].figures;
    const shown = rows.map((_, i) => i).filter((i) => !rows[i].hidden && known(i));
    rows.forEach((row, i) => {
      row.classList.toggle("front", front.has(i));
      row.querySelector(".badge").hidden = !front.has(i);
    });
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const value = (i, name) => data.points[i].figures[name].value;
    const inOrder = (some) => some.filter((i) => front.has(i)).sort((a, b) => value(a, x) - value(b, x));
    const [across, up] = [axis(x, shown), axis(y, shown)];
    const names = named();
    const traces = [...lines(), ...points()];
    const layout = {
      width: picture.clientWidth,
      height: 480,
      margin: { l: 70, r: 20, t: 20, b: 60 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: colour("text") },
      hovermode: "closest",
      hoverlabel: {
        align: "left",
        bgcolor: colour("field"),
        bordercolor: colour("strong"),
        font: { color: colour("text") },
      },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { ...across.layout, gridcolor: colour("line") },
      yaxis: { ...up.layout, gridcolor: colour("line") },
    };
    const best = inOrder(shown).map((i) => data.points[i].name).join(", ") || "none";
    const said = `${y} over ${x} of ${shown.length} programs. On the front: ${best}. The table has the figures.`;
    picture.setAttribute("aria-label", said);
    Plotly.react(picture, traces, layout, {
      displaylogo: false,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
      plotlyServerURL: "", // plotly's own buttons would offer to send the picture to its maker
    });
    picture.removeAllListeners("plotly_click");
    picture.on("plotly_click", (event) => rows[event.points[0].customdata].querySelector("a").click());

    function bars(some, axis, name) {
      const intervals = some.map((i) => data.points[i].figures[name].interval);
      if (!intervals.some(Boolean)) return undefined;
      const middle = some.map((i) => axis.drawn(value(i, name)));
      return {
        type: "data",
        symmetric: false,
        array: intervals.map((each, n) => (each ? axis.drawn(each[1]) - middle[n] : 0)),
        arrayminus: intervals.map((each, n) => (each ? middle[n] - axis.drawn(each[0]) : 0)),
        thickness: 1,
        width: 3,
      };
    }

    function points() {
      const kinds = models.flatMap((model) => [true, false].map((passed) => [model, passed]));
      return kinds.flatMap(([model, passed]) => {
        const some = shown.filter((i) => data.points[i].model === model && data.points[i].passed === passed);
        if (!some.length) return [];
        return {
          type: "scatter",
          mode: "markers+text",
          text: some.map((i) => names.get(i) ?? ""),
          textfont: { size: 12 },
          textposition: `${up.less ? "bottom" : "top"} ${across.less ? "left" : "right"}`, // where nothing beats it
          name: plain(model),
          legendgroup: model, // one entry for what passed and what failed
          showlegend: passed || !shown.some((i) => data.points[i].model === model && data.points[i].passed),
          x: some.map((i) => across.drawn(value(i, x))),
          y: some.map((i) => up.drawn(value(i, y))),
          error_x: bars(some, across, x),
          error_y: bars(some, up, y),
          customdata: some,
          hovertext: some.map(hover),
          hoverinfo: "text",
          marker: {
            color: colourOf(model),
            symbol: passed ? "circle" : "x",
            size: some.map((i) => (front.has(i) ? 13 : 9)),
            line: { width: some.map((i) => (front.has(i) ? 2 : 0)), color: colour("text") },
          },
        };
      });
    }

    function hover(i) {
      const point = data.points[i];
      const figures = Object.entries(point.figures).map(([name, cell]) => `${name}: ${cell.text} ${cell.aside}`);
      const verdict = point.passed ? "passed" : "failed its gate";
      return [`<b>${plain(point.name)}</b>`, plain(point.about), ...figures.map(plain), verdict].join("<br>");
    }

    // The front as steps: what is to be had at each figure across.
    function lines() {
      const of = (model) => shown.filter((i) => data.points[i].model === model);
      const groups = scope === "all" ? [shown] : models.map(of);
      return groups.map(inOrder).map((some, n) => ({
        type: "scatter",
        mode: "lines",
        x: some.map((i) => across.drawn(value(i, x))),
        y: some.map((i) => up.drawn(value(i, y))),
        line: {
          color: scope === "all" ? colour("soft") : colourOf(models[n]),
          width: 1.5,
          shape: across.less ? "hv" : "vh",
        },
        hoverinfo: "skip",
        showlegend: false,
      }));
    }

    // Names of what is on the front, but for those that would run into another or over the edge.
    function named() {
      const names = new Map();
      const wide = picture.clientWidth - 90;
      const taken = [];
      const pen = document.createElement("canvas").getContext("2d");
      pen.font = "12px system-ui, sans-serif";
      for (const i of inOrder(shown)) {
        const width = pen.measureText(data.points[i].label).width + 12;
        const right = across.part(value(i, x)) * wide + (across.less ? 0 : width);
        const spot = { left: right - width, right, y: up.part(value(i, y)) * 400 };
        const meets = (o) => Math.abs(spot.y - o.y) < 16 && spot.left < o.right && o.left < spot.right;
        if (spot.left < 0 || right > wide || taken.some(meets)) continue;
        names.set(i, plain(data.points[i].label));
        taken.push(spot);
      }
      return names;
    }
  }

  for (const id of ["words", "model", "passed"]) at(id)?.addEventListener("input", filter);
  for (const id of ["x", "y", "scope"]) at(id)?.addEventListener("change", draw);
  for (const button of document.querySelectorAll("#table th button"))
    button.addEventListener("click", () => sort(button.parentNode));
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(getSelection())) event.target.closest("tr").querySelector("a").click();
  });
  for (const change of ["hashchange", "resize"]) window.addEventListener(change, draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  filter();
})();
