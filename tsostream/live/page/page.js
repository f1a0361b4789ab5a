"use strict";
// Asks for what is in sight, and draws it. What can be seen is asked for again when the run or the view has changed.

const element = (id) => document.getElementById(id);
let status = null, key = null, series = null, picture = null, cells = null, charts = {};
let asking = false, again = false;

const RAMP = { // dark to light, readable for everybody
  relative: ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"],
  residual: ["#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b"],
};

function colours(name) {
  const stops = RAMP[name].map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
  const table = new Uint8ClampedArray(256 * 4);
  for (let level = 0; level < 255; level++) {
    const place = level / 254 * (stops.length - 1), below = Math.min(Math.floor(place), stops.length - 2);
    for (let c = 0; c < 3; c++) table[4 * level + c] = stops[below][c] + (place - below) * (stops[below + 1][c] - stops[below][c]);
    table[4 * level + 3] = 255;
  }
  return table; // 255 stays transparent: nothing is known there
}

// ---------------------------------------------------------------- charts

function errorBars(u) {
  if (!series || !series.x) return;
  const { ctx } = u, ratio = devicePixelRatio || 1;
  const bars = (x, y, err, colour, width, size) => {
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.lineWidth = width * ratio;
    for (let i = 0; i < x.length; i++) {
      if (y[i] == null || x[i] < u.scales.x.min || x[i] > u.scales.x.max) continue;
      const cx = u.valToPos(x[i], "x", true), cy = u.valToPos(y[i], "y", true);
      if (err[i] != null && width) {
        ctx.beginPath();
        ctx.moveTo(cx, u.valToPos(y[i] - err[i], "y", true));
        ctx.lineTo(cx, u.valToPos(y[i] + err[i], "y", true));
        ctx.stroke();
      }
      ctx.beginPath();
      ctx.arc(cx, cy, size * ratio, 0, 7);
      ctx.fill();
    }
  };
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ctx.clip();
  if (series.raw) {
    ctx.globalAlpha = series.x.length > 400 ? 0.5 : 0.85;
    bars(series.x, series.flux, series.err, css("--point"), series.x.length > 700 ? 0 : 1, series.x.length > 400 ? 1.3 : 2);
    ctx.globalAlpha = 1;
  }
  if (series.rows > 2 * series.binned.x.length || !series.raw) {
    const { x, flux, err } = series.binned;
    ctx.strokeStyle = css("--accent");
    ctx.lineWidth = 1.2 * ratio;
    ctx.beginPath();
    let drawing = false;
    for (let i = 0; i < x.length; i++) {
      if (flux[i] == null) { drawing = false; continue; }
      const cx = u.valToPos(x[i], "x", true), cy = u.valToPos(flux[i], "y", true);
      if (drawing) ctx.lineTo(cx, cy); else ctx.moveTo(cx, cy);
      drawing = true;
    }
    ctx.stroke();
    bars(x, flux, err, css("--accent"), 1, 2);
  }
  ctx.restore();
}

function paintPicture(u) {
  if (!picture || !cells) return;
  const { ctx } = u, { x, edges } = picture;
  const step = x.length > 1 ? (x[x.length - 1] - x[0]) / (x.length - 1) : Math.max(1e-9, currentRange()[1] - currentRange()[0]);
  const left = u.valToPos(x[0] - step / 2, "x", true), right = u.valToPos(x[x.length - 1] + step / 2, "x", true);
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ctx.clip();
  ctx.imageSmoothingEnabled = false;
  for (let row = 0; row + 1 < edges.length; row++) {
    const a = u.valToPos(edges[row], "y", true), b = u.valToPos(edges[row + 1], "y", true);
    const top = Math.floor(Math.min(a, b)), height = Math.ceil(Math.max(a, b)) - top;
    ctx.drawImage(cells, 0, row, x.length, 1, left, top, right - left, height);
  }
  ctx.restore();
}

function line(label, colour, digits, more) {
  return { label, stroke: css(colour), width: 1.2, value: shortNumber(digits), points: { show: false }, spanGaps: true, ...more };
}

// in a legend a dashed line has a dashed mark, one with short dashes a dotted one
const mark = (u, index) => {
  const { dash } = u.series[index];
  return dash ? (dash[0] > 4 ? "dashed" : "dotted") : "solid";
};

function build() {
  for (const chart of Object.values(charts)) chart.destroy();
  viewOf.charts.length = 0;
  charts = {};
  const clock = status && status.clock === "integration" ? "integration" : "hours";
  const digits = (values) => values.map((value) => {
    const steps = values.length > 1 ? Math.abs(values[1] - values[0]) : 1;
    return value.toFixed(Math.max(0, Math.min(9, Math.ceil(-Math.log10(steps || 1) - 1e-9))));
  });
  const axis = { values: (u, values) => digits(values) };
  charts.white = timeChart("white", 300, [
    line("flux", "--point", 6, { stroke: css("--band"), width: 0 }),
    line("low", "--band", 6, { width: 0 }), line("high", "--band", 6, { width: 0 }),
  ], { clock, axis, draw: errorBars, bands: [{ series: [3, 2], fill: css("--band") }],
    y: { range: (u, low, high) => (series && series.range) || [low ?? 0, high ?? 1] } });
  charts.picture = timeChart("picture", 260, [line("wavelength", "--point", 3, { width: 0 })], { clock, axis, draw: paintPicture,
    legend: false,
    y: { range: () => {
      if (!picture || !picture.edges) return [0, 1];
      const ends = [picture.edges[0], picture.edges[picture.edges.length - 1]];
      return [Math.min(...ends), Math.max(...ends)];
    } } });
  charts.position = timeChart("position", 170, [line("x", "--third", 2), line("y", "--second", 2)], { clock, axis });
  charts.width = timeChart("width", 170, [line("x", "--third", 2), line("y", "--second", 2)], { clock, axis });
  charts.flags = timeChart("flags", 170, [
    // told apart by their dashes, too, also without colours
    line("jump", "--point", 2), line("saturated", "--accent", 2, { dash: [10, 4], width: 2 }),
    line("outlier", "--second", 2, { dash: [5, 3, 1, 3], width: 1.6 }), line("bad", "--ink", 2, { dash: [2, 4], width: 1.8 }),
  ], { clock, axis, mark, y: { range: (u, low, high) => [0, Math.max(1, high ?? 1) * 1.05] } });
  buildScatter();
}

function buildScatter() {
  const box = element("scatter");
  const powers = (u, values) => values.map((value) => {
    const power = Math.log10(value);
    return Math.abs(power - Math.round(power)) < 1e-6 || [2, 5].includes(+(value / 10 ** Math.floor(power + 1e-9)).toFixed(3)) ? +value.toPrecision(3) : "";
  });
  const round = (u, index, low, high) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
      for (let digit = 1; digit < 10; digit++) if (digit * 10 ** power >= low && digit * 10 ** power <= high) found.push(digit * 10 ** power);
    }
    return found;
  };
  const scatter = new uPlot({
    width: box.clientWidth || 300, height: innerWidth < 760 ? 150 : 170,
    scales: { x: { time: false, distr: 3, log: 10, range: (u, low, high) => [Math.max(0.8, (low || 1) * 0.8), (high || 10) * 1.25] },
      y: { distr: 3, log: 10, range: (u, low, high) => [(low || 1) * 0.7, (high || 10) * 1.4] } },
    axes: [{ ...axes({})[0], splits: round, values: powers, space: 20, filter: (u, splits) => splits },
      { ...axes({})[1], splits: round, values: powers, space: 12, filter: (u, splits) => splits }],
    cursor: { drag: { x: false, y: false }, y: false },
    series: [{ label: "integrations", value: shortNumber(0) },
      line("measured [ppm]", "--point", 1, { points: { show: true, size: 6 } }),
      line("photon and read noise", "--accent", 1, { dash: [6, 4] })],
  }, [[], [], []], box);
  new ResizeObserver(() => {
    if (box.clientWidth && box.clientWidth !== scatter.width) scatter.setSize({ width: box.clientWidth, height: scatter.height });
  }).observe(box);
  charts.scatter = scatter;
}

function redraw() {
  if (!series || !series.x) return;
  const none = series.x.map(() => null), milli = (values) => values.map((value) => (value == null ? null : 1e3 * value));
  const set = (name, data) => charts[name].setData(data, false);
  set("white", [series.x, series.flux, series.low || none, series.high || none]);
  set("position", [series.x, milli(series.x_value), milli(series.y_value)]);
  set("width", [series.x, milli(series.width_x_value), milli(series.width_y_value)]);
  set("flags", [series.x, series.n_jump, series.n_saturated, series.n_outlier, series.n_bad]);
  set("picture", [series.x, none]);
  redrawRange();
  for (const chart of viewOf.charts) chart.redraw(false, true);
  const { size, measured, expected } = series.scatter;
  charts.scatter.setData([size, measured, expected]);
  const unit = status.wavelength_unit === "um" ? "µm" : status.wavelength_unit;
  const when = status.clock === "integration" ? "integration number" : `hours since ${status.clock} ${status.origin.toFixed(5)}`;
  element("picture-note").textContent = `wavelength [${unit}], light relative to the median`;
  element("white-note").textContent = `relative flux, ${when} · ` + (series.raw ? `${series.rows} integrations`
    : `${series.rows} integrations, band: lowest and highest of ${Math.round(series.rows / series.x.length)}`)
    + (series.binned.x.length < series.rows / 2 ? ` · line: bins of ${Math.round(series.rows / series.binned.x.length)}` : "");
}

// ---------------------------------------------------------------- data

async function ask(path, more) {
  const [min, max] = viewOf.range ? currentRange() : [-Infinity, Infinity];
  const reserve = viewOf.range ? 0.15 * (max - min) : 0;
  const query = new URLSearchParams({ key: key.join(","), ...more });
  if (viewOf.range) { query.set("from", min - reserve); query.set("to", max + reserve); }
  const answer = await fetch(`${path}?${query}`);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function decodeCells(drawn) {
  const bytes = Uint8Array.from(atob(drawn.cells), (char) => char.charCodeAt(0));
  const table = colours(element("residual").checked ? "residual" : "relative");
  const rows = drawn.edges.length - 1, columns = drawn.columns;
  const image = new ImageData(columns, rows);
  for (let column = 0; column < columns; column++) {
    for (let row = 0; row < rows; row++) {
      const from = 4 * bytes[column * rows + row];
      image.data.set(table.subarray(from, from + 4), 4 * (row * columns + column));
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function showScale(drawn) {
  const canvas = element("ramp"), table = colours(element("residual").checked ? "residual" : "relative");
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, 1);
  for (let i = 0; i < canvas.width; i++) image.data.set(table.subarray(4 * Math.round(i / canvas.width * 254), 4 * Math.round(i / canvas.width * 254) + 4), 4 * i);
  for (let y = 0; y < canvas.height; y++) context.putImageData(image, 0, y);
  element("low").textContent = `${drawn.low.toFixed(2)} %`;
  element("high").textContent = `${drawn.high > 0 ? "+" : ""}${drawn.high.toFixed(2)} %`;
}

async function refresh() {
  if (!key) return;
  if (asking) { again = true; return; }
  asking = true;
  try {
    do {
      again = false;
      const width = element("white").clientWidth || 600;
      const found = await ask("api/series", { points: Math.round(width * 1.2) });
      if (found.rows) {
        series = found;
        viewOf.span = found.span;
      }
      element("picture-box").hidden = !status.pictures.length;
      if (status.pictures.length) {
        const drawn = await ask("api/picture", { points: Math.min(900, width), mode: element("residual").checked ? "residual" : "relative" });
        if (drawn.columns) { picture = drawn; cells = decodeCells(drawn); showScale(drawn); }
      }
      redraw();
    } while (again);
  } catch (error) {
    console.warn(error);
  } finally {
    asking = false;
  }
}

// ---------------------------------------------------------------- status

const clockText = (seconds) => {
  if (seconds == null) return "–";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  const two = (value) => String(value).padStart(2, "0");
  return minutes < 60 ? `${minutes}:${two(whole % 60)}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
};

function showStatus() {
  const { exposure } = status;
  element("title").textContent = [status.target, exposure.exposure_id].filter(Boolean).join(" · ") || status.file;
  document.title = `${status.rows}/${status.total || "?"} · ${status.file}`;
  element("subtitle").textContent = [exposure.exp_type, exposure.detector, exposure.filter, exposure.pupil, exposure.grating, exposure.subarray, status.file]
    .filter((part) => part && part !== "N/A").join(" · ");
  const state = element("state");
  const waiting = status.begun ? "waiting: the run has started, its scout is measured" : "waiting for the run to begin";
  state.textContent = (status.state === "waiting" ? waiting : status.state) + (status.error ? `: ${status.error}` : "");
  state.className = `pill ${status.state}`;
  element("bar").style.width = `${status.total ? 100 * status.rows / status.total : 0}%`;
  const ppm = (value) => (value == null ? "–" : `${value.toFixed(0)} ppm`);
  const facts = [
    ["integrations", `${status.rows} / ${status.total || "?"}`],
    ["rate", status.rate == null ? "–" : `${status.rate.toFixed(status.rate < 10 ? 1 : 0)} per second`],
    ["time left", clockText(status.left)],
    ["scatter, latest 100", ppm(status.scatter), status.scatter == null ? "" : status.scatter < 1.5 * status.expected ? "good" : "warn"],
    ["photon and read noise", ppm(status.expected)],
    ...Object.entries(status.counts).map(([name, count]) => [name.replace("n_", "") + " pixels", String(count)]),
  ];
  element("facts").replaceChildren(...facts.map(([name, value, mark]) => {
    const box = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    if (mark) text.className = mark;
    box.append(term, text);
    return box;
  }));
  element("notes-box").hidden = !status.notes.length;
  element("notes").replaceChildren(...status.notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  showKeys();
}

function showKeys() {
  const select = element("key"), names = status.keys.map((one) => one.join(","));
  select.hidden = names.length < 2;
  if ([...select.options].map((option) => option.value).join(";") !== names.join(";")) {
    select.replaceChildren(...status.keys.map(([order, aperture]) => new Option(`order ${order}, aperture ${aperture}`, `${order},${aperture}`)));
  }
  if (!key || !names.includes(key.join(","))) key = status.keys[0] || null;
  if (key) select.value = key.join(",");
}

function news(event) {
  const before = status;
  status = JSON.parse(event.data);
  if (before && before.run !== status.run) { series = picture = cells = null; viewOf.range = null; }
  showStatus();
  if (!before || before.clock !== status.clock) build();
  const grown = !before || before.rows !== status.rows || before.spectra !== status.spectra || before.run !== status.run;
  if (grown || !series) refresh();
}

// ---------------------------------------------------------------- start

element("all").onclick = showAll;
element("latest").onclick = () => {
  const [first, last] = viewOf.span;
  showRange(last - (last - first) / 10, last);
};
element("key").onchange = () => { key = element("key").value.split(",").map(Number); picture = cells = null; refresh(); };
element("residual").onchange = refresh;
viewOf.listeners.push(() => { element("all").disabled = !viewOf.range; });
let timer = 0;
viewOf.listeners.push(() => { clearTimeout(timer); timer = setTimeout(refresh, 60); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { build(); redraw(); });

const source = new EventSource("events");
source.onmessage = news;
source.onerror = () => {
  element("state").textContent = "connection lost";
  element("state").className = "pill lost";
};
