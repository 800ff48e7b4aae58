// Draws the three pictures of the page from the report inside it.
(() => {
  "use strict";
  const report = JSON.parse(document.getElementById("report").textContent);
  const names = Object.keys(report.by_op);
  // Told apart by people who do not see red and green differently, too (Okabe and Ito).
  const colours = { write: "#d55e00", read: "#0072b2" };
  const spare = ["#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  const colour = (name) => colours[name] || spare[names.indexOf(name) % spare.length];
  const style = getComputedStyle(document.documentElement);
  const text = () => style.getPropertyValue("--soft").trim();
  const line = () => style.getPropertyValue("--line").trim();

  const count = (value) => {
    if (value == null) return "-";
    if (value >= 1e6) return +(value / 1e6).toPrecision(4) + "M";
    if (value >= 1e4) return +(value / 1e3).toPrecision(4) + "k";
    return String(Math.round(value));
  };
  const ms = (value) => {
    if (value == null) return "-";
    return value >= 1000 ? +(value / 1000).toPrecision(3) + " s" : +value.toPrecision(3) + " ms";
  };
  const axis = (more) => ({
    stroke: text,
    grid: { stroke: line, width: 1 },
    ticks: { stroke: line, width: 1 },
    ...more,
  });

  const plots = [];
  const draw = (id, empty, options, data) => {
    const figure = document.getElementById(id);
    if (data[0].length === 0) {
      const note = document.createElement("p");
      note.className = "empty";
      note.textContent = empty;
      figure.append(note);
      return;
    }
    const size = () => ({ width: figure.clientWidth, height: 280 });
    const plot = new uPlot({ ...size(), ...options }, data, figure);
    plots.push(() => plot.setSize(size()));
  };

  const points = report.timeline;
  const seconds = points.map((point) => point.at_seconds);
  const column = (name, field, absent) =>
    points.map((point) => {
      const op = point.by_op[name];
      return op && (absent == null || op[field] > 0) ? op[field] : absent === undefined ? 0 : absent;
    });
  const time = { time: false };
  const xSeconds = axis({ values: (_, values) => values.map((value) => value + " s") });
  const atSecond = { label: "at", value: (_, value) => (value == null ? "-" : value.toFixed(1) + " s") };
  const shape = { paths: undefined, points: { show: seconds.length < 120, size: 4 } };

  draw(
    "throughput",
    "The run was shorter than a second.",
    {
      scales: { x: time, y: { range: (_, __, high) => [0, high * 1.08 || 1] } },
      axes: [xSeconds, axis({ size: 64, values: (_, values) => values.map(count) })],
      series: [
        atSecond,
        ...names.map((name) => ({
          ...shape,
          label: name + "s/s",
          stroke: colour(name),
          width: 2,
          value: (_, value) => count(value),
        })),
        ...names
          .filter((name) => report.by_op[name].errors > 0)
          .map((name) => ({
            ...shape,
            label: "failed " + name + "s/s",
            stroke: colour(name),
            dash: [4, 4],
            width: 2,
            value: (_, value) => count(value),
          })),
      ],
    },
    [
      seconds,
      ...names.map((name) => column(name, "ops_per_second")),
      ...names.filter((name) => report.by_op[name].errors > 0).map((name) => column(name, "errors")),
    ],
  );

  const lines = [
    ["p50_ms", "P50", undefined],
    ["p99_ms", "P99", [8, 4]],
    ["max_ms", "max", [2, 4]],
  ];
  // A logarithmic scale with whole decades, and no label between them when there are many.
  const log = { distr: 3 };
  const msAxis = axis({ size: 72, values: (_, values) => values.map((value) => (value == null ? "" : ms(value))) });
  draw(
    "latency",
    "The run was shorter than a second.",
    {
      scales: { x: time, y: log },
      axes: [xSeconds, msAxis],
      series: [
        atSecond,
        ...names.flatMap((name) =>
          lines.map(([, label, dash]) => ({
            ...shape,
            label: name + " " + label,
            stroke: colour(name),
            dash,
            width: dash ? 1.5 : 2,
            value: (_, value) => ms(value),
          })),
        ),
      ],
    },
    [seconds, ...names.flatMap((name) => lines.map(([field]) => column(name, field, null)))],
  );

  // The horizontal axis counts nines: 90 % at 1, 99 % at 2, and so on.
  const nines = (percentile) => -Math.log10(1 - percentile / 100);
  const curves = names.map((name) => report.by_op[name].distribution.filter((point) => point.percentile < 100));
  const xs = [...new Set(curves.flatMap((curve) => curve.map((point) => nines(point.percentile))))].sort((a, b) => a - b);
  const percent = (value) => +(100 * (1 - 10 ** -value)).toFixed(6) + " %";
  const marks = [0, -Math.log10(0.5), 1, 2, 3, 4, 5, 6];
  draw(
    "distribution",
    "No operation succeeded.",
    {
      scales: { x: time, y: log },
      axes: [
        axis({
          splits: (_, __, low, high) => marks.filter((mark) => mark >= low - 1e-9 && mark <= high + 1e-9),
          values: (_, values) => values.map(percent),
        }),
        msAxis,
      ],
      series: [
        { label: "percentile", value: (_, value) => (value == null ? "-" : percent(value)) },
        ...names.map((name) => ({
          label: name,
          stroke: colour(name),
          width: 2,
          spanGaps: true,
          points: { show: false },
          value: (_, value) => ms(value),
        })),
      ],
    },
    [
      xs,
      ...curves.map((curve) => {
        const at = new Map(curve.map((point) => [nines(point.percentile), point.latency_ms]));
        return xs.map((x) => (at.has(x) && at.get(x) > 0 ? at.get(x) : null));
      }),
    ],
  );

  let waiting = false;
  addEventListener("resize", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      plots.forEach((resize) => resize());
    });
  });
  document.documentElement.dataset.plots = plots.length;
})();
