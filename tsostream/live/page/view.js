"use strict";
// Charts that share one time axis. The view is either null (the whole run, following its end) or {min, max}.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const viewOf = { range: null, span: [0, 1], listeners: [], charts: [] };

function currentRange() {
  const [a, b] = viewOf.range ? [viewOf.range.min, viewOf.range.max] : viewOf.span;
  return b > a ? [a, b] : [a - 0.5, a + 0.5];
}

function showRange(min, max) {
  const [first, last] = viewOf.span;
  const whole = last - first;
  if (!(max > min)) return;
  const width = Math.max(max - min, whole * 1e-6);
  // what is in sight always touches the data
  if (max < first) [min, max] = [first, first + width];
  if (min > last) [min, max] = [last - width, last];
  viewOf.range = (min <= first && max >= last) ? null : { min, max };
  redrawRange();
  viewOf.listeners.forEach((call) => call());
}

function showAll() {
  viewOf.range = null;
  redrawRange();
  viewOf.listeners.forEach((call) => call());
}

function redrawRange() {
  const [min, max] = currentRange();
  for (const chart of viewOf.charts) chart.setScale("x", { min, max });
}

// Zoom by wheel, move by Shift+drag and by touch, pinch.
function gestures(u) {
  const over = u.over;
  const at = (clientX) => u.posToVal(clientX - over.getBoundingClientRect().left, "x");
  over.addEventListener("wheel", (event) => {
    const [min, max] = currentRange();
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const middle = at(event.clientX), factor = Math.exp(event.deltaY * 0.004);
      showRange(middle - (middle - min) * factor, middle + (max - middle) * factor);
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      const step = (max - min) * (event.deltaX || event.deltaY) / over.clientWidth;
      showRange(min + step, max + step);
    }
  }, { passive: false });
  const touches = new Map();
  let start = null;
  const begin = () => {
    const xs = [...touches.values()];
    start = xs.length ? { range: currentRange(), xs } : null;
  };
  over.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    touches.set(event.pointerId, event.clientX);
    begin();
  });
  over.addEventListener("pointermove", (event) => {
    if (!touches.has(event.pointerId)) return;
    touches.set(event.pointerId, event.clientX);
    const now = [...touches.values()], width = over.clientWidth, left = over.getBoundingClientRect().left;
    const [min, max] = start.range;
    const value = (x) => min + (max - min) * (x - left) / width;
    if (now.length === 1 && viewOf.range) {
      const step = value(start.xs[0]) - value(now[0]);
      showRange(min + step, max + step);
    } else if (now.length === 2) {
      const apart = Math.max(20, Math.abs(start.xs[0] - start.xs[1])) / Math.max(20, Math.abs(now[0] - now[1]));
      const middle = value((start.xs[0] + start.xs[1]) / 2);
      const part = ((now[0] + now[1]) / 2 - left) / width;
      const wide = (max - min) * apart;
      showRange(middle - wide * part, middle + wide * (1 - part));
    }
  });
  const end = (event) => { if (touches.delete(event.pointerId)) begin(); };
  over.addEventListener("pointerup", end);
  over.addEventListener("pointercancel", end);
}

function mouse() {
  return {
    mousedown: (u, target, handler) => (event) => {
      if (event.button === 0 && event.shiftKey) {
        const range = currentRange(), from = event.clientX, width = u.over.clientWidth;
        const move = (other) => {
          const step = (range[1] - range[0]) * (from - other.clientX) / width;
          showRange(range[0] + step, range[1] + step);
        };
        const up = () => { removeEventListener("mousemove", move); removeEventListener("mouseup", up); };
        addEventListener("mousemove", move);
        addEventListener("mouseup", up);
        return null;
      }
      return handler(event);
    },
    dblclick: () => () => { showAll(); return null; },
  };
}

function axes(extra) {
  const common = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 },
    font: "11px system-ui, sans-serif" };
  return [{ ...common, size: 28, space: 70 }, { ...common, size: 66, space: 34, ...extra }];
}

const shortNumber = (digits) => (u, value) => (value == null ? "–" : value.toFixed(digits));

// A chart over time.
function timeChart(id, height, series, options) {
  const box = document.getElementById(id);
  const narrow = () => innerWidth < 760;
  const u = new uPlot({
    width: box.clientWidth || 300, height: narrow() ? Math.round(height * 0.8) : height,
    scales: { x: { time: false, range: () => currentRange() }, y: options.y || {} },
    axes: axes(options.axis || {}),
    legend: { show: options.legend !== false, markers: { width: 2, dash: options.mark || "solid" } },
    cursor: { sync: { key: "time" }, y: false, bind: mouse(), drag: { x: true, y: false, setScale: false }, points: { size: 6 } },
    series: [{ label: options.clock || "hours", value: shortNumber(4) }, ...series],
    bands: options.bands || [],
    hooks: {
      ready: [gestures],
      draw: options.draw ? [options.draw] : [],
      setSelect: [(chart) => {
        const { left, width } = chart.select;
        if (width > 3) showRange(chart.posToVal(left, "x"), chart.posToVal(left + width, "x"));
        if (width > 0) chart.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      }],
    },
  }, options.data || [[], ...series.map(() => [])], box);
  new ResizeObserver(() => {
    if (box.clientWidth && box.clientWidth !== u.width) u.setSize({ width: box.clientWidth, height: u.height });
  }).observe(box);
  viewOf.charts.push(u);
  return u;
}
