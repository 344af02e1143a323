"use strict";
// Draws the figures that report/marks.py describes. Text goes to Plotly escaped, and into the page as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const chooser = document.getElementById("network");
  const SYMBOLS = { x: "x-thin-open", none: undefined };

  const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", $: "&#36;" }; // between dollars Plotly looks for formulas
  const plain = (text) => String(text).replace(/[&<>$]/g, (sign) => ENTITIES[sign]);
  const tint = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const palette = () => Array.from({ length: 8 }, (_, number) => tint(`--c${number}`));
  const show = (value) =>
    value === null ? "unknown" : typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(4) : String(value);

  function unpack(mark) {
    const bytes = Uint8Array.from(atob(mark.base64), (letter) => letter.charCodeAt(0));
    const step = (mark.high - mark.low) / 255;
    return Array.from({ length: mark.side }, (_, row) =>
      Array.from(bytes.subarray(row * mark.side, (row + 1) * mark.side), (byte) => mark.low + step * byte));
  }

  function describePoints(mark, figure) {
    const facts = Object.entries(mark.facts || {});
    return mark.x.map((x, place) => {
      const lines = [`<b>${plain(mark.name)}</b>`];
      if (figure.key !== "map") {
        if (figure.x.label) lines.push(`${plain(figure.x.label)}: ${show(x)}`);
        if (figure.y.label) lines.push(`${plain(figure.y.label)}: ${show(mark.y[place])}`);
      }
      for (const [name, values] of facts) lines.push(`${plain(name)}: ${plain(show(values[place]))}`);
      return lines.join("<br>");
    });
  }

  function traceOf(mark, figure, colours) {
    if (mark.kind === "HeatMap") {
      return {
        type: "heatmap", z: unpack(mark), colorscale: "Cividis", zmin: mark.low, zmax: mark.high,
        colorbar: { title: { text: plain(mark.unit), side: "right" }, thickness: 12, outlinewidth: 0 },
        hovertemplate: `cells %{x} and %{y}: %{z:.3g} ${plain(mark.unit)}<extra></extra>`,
      };
    }
    const colour = Array.isArray(mark.colour) ? mark.colour.map((number) => colours[number]) : colours[mark.colour];
    const common = { name: plain(mark.name), x: mark.x, y: mark.y, text: describePoints(mark, figure), hoverinfo: "text",
      textposition: "none" };
    if (mark.kind === "Bars") {
      return { ...common, type: "bar",
        marker: { color: colour, pattern: { shape: mark.is_hatched ? "/" : "", fillmode: "overlay", fgcolor: tint("--ground"), solidity: 0.3 } } };
    }
    const isLine = mark.kind === "Line";
    const isJoined = isLine && mark.is_joined && mark.x.length > 1;
    const hasMarker = !isLine || mark.symbol !== "none";
    const alongX = figure.y.names.length > 0;
    const errors = isLine && mark.errors
      ? { [alongX ? "error_x" : "error_y"]: { type: "data", array: mark.errors, thickness: 1, width: 3 } } : {};
    return {
      ...common, ...errors, type: "scatter", textposition: undefined,
      mode: [isJoined ? "lines" : "", hasMarker ? "markers" : ""].filter(Boolean).join("+") || "markers",
      line: { color: colour, width: 2, dash: mark.is_dashed ? "dash" : "solid", shape: mark.is_stepped ? "hvh" : "linear" },
      marker: { color: colour, symbol: SYMBOLS[mark.symbol] || mark.symbol, size: isLine ? 8 : 7,
        line: { color: colour, width: mark.symbol === "x" ? 2 : 0 } },
    };
  }

  // Plotly labels the ticks between powers of ten by a bare digit.
  function ticksOf(values) {
    const known = values.filter((value) => value > 0);
    const [low, high] = [Math.min(...known), Math.max(...known)].map(Math.log10);
    const steps = high - low > 4 ? [1] : high - low > 1.5 ? [1, 3] : [1, 2, 5];
    const powers = Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, number) => Math.floor(low) + number);
    return powers.flatMap((power) => steps.map((step) => Number((step * 10 ** power).toPrecision(1))));
  }

  function axisOf(axis, values) {
    const names = axis.names.length
      ? { tickmode: "array", tickvals: axis.names.map((_, place) => place), ticktext: axis.names.map(plain), automargin: true } : {};
    if (axis.is_log) {
      const ticks = ticksOf(values);
      Object.assign(names, { tickmode: "array", tickvals: ticks, ticktext: ticks.map(String) });
    }
    return { title: { text: plain(axis.label) }, type: axis.is_log ? "log" : "linear", gridcolor: tint("--grid"),
      linecolor: tint("--line"), zerolinecolor: tint("--line"), ...names };
  }

  function draw(place, figure) {
    const colours = palette();
    if (figure.y.names.length) place.style.height = `${Math.max(300, 110 + 20 * figure.y.names.length)}px`;
    const isMap = figure.marks.some((mark) => mark.kind === "HeatMap");
    const many = figure.marks.length > 8;
    const valuesOf = (along) => figure.marks.flatMap((mark) => mark[along] || []);
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: tint("--text"), size: 12 },
      margin: { l: 65, r: 15, t: 10, b: 50 }, xaxis: axisOf(figure.x, valuesOf("x")), yaxis: axisOf(figure.y, valuesOf("y")), barmode: "group",
      showlegend: figure.marks.length > 1 && !figure.y.names.length,
      legend: many && place.clientWidth > 700 ? { font: { size: 11 } } : { orientation: "h", y: -0.2, font: { size: 11 } },
      hovermode: "closest", hoverlabel: { align: "left", bgcolor: tint("--raised"), font: { color: tint("--text") } },
    };
    if (isMap) {
      layout.yaxis.autorange = "reversed";
      layout.yaxis.scaleanchor = "x";
      layout.yaxis.constrain = layout.xaxis.constrain = "domain";
    }
    if (figure.key === "map") layout.yaxis.scaleanchor = "x";
    const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    return Plotly.react(place, figure.marks.map((mark) => traceOf(mark, figure, colours)), layout, config);
  }

  function drawGroup(group, figures) {
    for (const figure of figures) {
      const place = document.getElementById(`${group}-${figure.key}`);
      if (!place) continue;
      place.setAttribute("aria-label", figure.alt);
      place.parentElement.querySelector("h3").textContent = figure.title;
      place.parentElement.querySelector("figcaption").textContent = figure.note;
      draw(place, figure);
    }
  }

  function drawNetwork() {
    if (!chooser) return;
    const { told, figures } = data.networks[chooser.selectedIndex];
    drawGroup("network", figures);
    document.getElementById("told").textContent = told;
  }

  function drawAll() {
    drawGroup("across", data.across);
    drawNetwork();
  }

  function step(by) {
    const count = chooser.options.length;
    chooser.selectedIndex = (chooser.selectedIndex + by + count) % count;
    drawNetwork();
  }

  function sortBy(table, column, header) {
    const isAscending = header.getAttribute("aria-sort") !== "ascending";
    const keyOf = (row) => row.cells[column].dataset.key;
    const number = (key) => (key === "inf" ? Infinity : key === "-inf" ? -Infinity : Number(key));
    const rows = Array.from(table.tBodies[0].rows);
    const isNumeric = rows.every((row) => keyOf(row) !== "" && !Number.isNaN(number(keyOf(row))));
    const compare = isNumeric
      ? (one, two) => Math.sign(number(keyOf(one)) - number(keyOf(two)) || 0)
      : (one, two) => keyOf(one).localeCompare(keyOf(two));
    rows.sort((one, two) => (isAscending ? 1 : -1) * compare(one, two));
    table.tBodies[0].append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
  }

  if (chooser) {
    chooser.addEventListener("change", drawNetwork);
    document.getElementById("previous").addEventListener("click", () => step(-1));
    document.getElementById("next").addEventListener("click", () => step(1));
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((header, column) =>
      header.querySelector("button").addEventListener("click", () => sortBy(table, column, header)));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const details of document.querySelectorAll("details")) details.open = true;
    drawAll();
  });
  addEventListener("afterprint", () => { root.classList.remove("printing"); drawAll(); });
  drawAll();
})();
