// Draws the pictures of the page from the report inside it.
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
  const ink = () => style.getPropertyValue("--text").trim();
  const mark = () => style.getPropertyValue("--mark").trim();

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

  // What was done to the nodes: a line down each picture over time, with its name where there is room for it.
  const marks = (named) => (plot) => {
    const { ctx, bbox } = plot;
    const dots = devicePixelRatio || 1;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = mark();
    ctx.lineWidth = 1.5 * dots;
    ctx.font = `600 ${12 * dots}px system-ui, sans-serif`;
    (report.events || []).forEach((event, number) => {
      const x = plot.valToPos(event.at_seconds, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) return;
      ctx.setLineDash([5 * dots, 4 * dots]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (!named) return;
      const isLate = x > bbox.left + 0.8 * bbox.width;
      ctx.textAlign = isLate ? "right" : "left";
      // One above the other, so that none is written over.
      const y = bbox.top + bbox.height - (8 + 16 * (number % 3)) * dots;
      ctx.fillText(event.what, x + (isLate ? -6 : 6) * dots, y);
    });
    ctx.restore();
  };

  const plots = [];
  const figureIn = (id, caption) => {
    const figure = document.createElement("figure");
    figure.className = "plot";
    figure.append(Object.assign(document.createElement("figcaption"), { textContent: caption }));
    document.getElementById(id).append(figure);
    return figure;
  };
  const draw = (figure, empty, options, data) => {
    if (data[0].length === 0) {
      const note = document.createElement("p");
      note.className = "empty";
      note.textContent = empty;
      figure.append(note);
      return;
    }
    const size = () => ({ width: figure.clientWidth, height: options.height || 280 });
    const plot = new uPlot({ ...options, ...size() }, data, figure);
    plots.push(() => plot.setSize(size()));
  };

  const points = report.timeline;
  const seconds = points.map((point) => point.at_seconds);
  // Those of all kinds together are there when there are several, and the file is not of an earlier version.
  const all = names.length > 1 && points.every((point) => point.all_ops) ? ["all"] : [];
  const opOf = (point, name) => (name === "all" ? point.all_ops : point.by_op[name]);
  const column = (name, field, absent) =>
    points.map((point) => {
      const op = opOf(point, name);
      return op && (absent == null || op[field] > 0) ? op[field] : absent === undefined ? 0 : absent;
    });
  const time = { time: false };
  const xSeconds = axis({ values: (_, values) => values.map((value) => value + " s") });
  const atSecond = { label: "at", value: (_, value) => (value == null ? "-" : value.toFixed(1) + " s") };
  const shape = { paths: undefined, points: { show: seconds.length < 120, size: 4 } };
  const bare = { points: { show: false } };
  // The pictures over time have one cursor.
  const overTime = (named) => ({ cursor: { sync: { key: "time" } }, hooks: { draw: [marks(named)] } });
  const fromZero = { range: (_, __, high) => [0, high * 1.08 || 1] };
  const tooShort = "The run was shorter than a second.";
  const failing = names.filter((name) => report.by_op[name].errors > 0);

  draw(
    document.getElementById("throughput"),
    tooShort,
    {
      ...overTime(true),
      scales: { x: time, y: fromZero },
      axes: [xSeconds, axis({ size: 64, values: (_, values) => values.map(count) })],
      series: [
        atSecond,
        ...[...all, ...names].map((name) => ({
          ...shape,
          label: name === "all" ? "all operations/s" : name + "s/s",
          stroke: name === "all" ? ink : colour(name),
          width: name === "all" ? 2.5 : 2,
          value: (_, value) => count(value),
        })),
        ...failing.map((name) => ({
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
      ...[...all, ...names].map((name) => column(name, "ops_per_second")),
      ...failing.map((name) => column(name, "errors")),
    ],
  );

  // Told apart by colour, by width and by dash.
  const lines = [
    { field: "p50_ms", label: "P50", stroke: "#009e73", width: 3 },
    { field: "p99_ms", label: "P99", stroke: "#e08e00", width: 2 },
    { field: "max_ms", label: "max", stroke: "#cc3377", width: 1.25, dash: [3, 3] },
  ];
  // A logarithmic scale with whole decades, and no label between them when there are many.
  const log = { distr: 3 };
  const msAxis = axis({ size: 72, values: (_, values) => values.map((value) => (value == null ? "" : ms(value))) });
  // All kinds on the same scale, so that they can be compared: the whole decades around what there is.
  const measured = points.flatMap((point) =>
    [...all, ...names].flatMap((name) => lines.map(({ field }) => (opOf(point, name) || {})[field]).filter((it) => it > 0)),
  );
  const decade = (round, value) => 10 ** round(Math.log10(value));
  const low = measured.reduce((a, b) => Math.min(a, b), Infinity);
  const high = measured.reduce((a, b) => Math.max(a, b), 0);
  const decades = high > 0 ? { range: [decade(Math.floor, low), decade(Math.ceil, high)] } : {};
  const captions = { all: "All operations", read: "Reads", write: "Writes" };
  for (const name of [...all, ...names]) {
    draw(
      figureIn("latency", captions[name] || name),
      tooShort,
      {
        ...overTime(false),
        height: 240,
        scales: { x: time, y: { ...log, ...decades } },
        axes: [xSeconds, msAxis],
        series: [
          atSecond,
          ...lines.map(({ label, stroke, width, dash }) => ({
            ...bare,
            label,
            stroke,
            width,
            dash,
            value: (_, value) => ms(value),
          })),
        ],
      },
      [seconds, ...lines.map(({ field }) => column(name, field, null))],
    );
  }

  const resources = report.resources || [];
  const nodes = [...new Set(resources.flatMap((point) => Object.keys(point.by_node)))].sort();
  const nodeColours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  const nodeColour = (index) => nodeColours[index % nodeColours.length];
  const ofNodes = (field) =>
    nodes.map((node) =>
      resources.map((point) => {
        const value = point.by_node[node] && point.by_node[node][field];
        return value == null ? null : value;
      }),
    );
  const resourceSeconds = resources.map((point) => point.at_seconds);
  const notMeasured = "Not measured: the run was shorter than a second, or the file is of an earlier version.";
  const cores = (value) => (value == null ? "-" : String(+value.toPrecision(3)));
  draw(
    figureIn("resources", "Busy processors"),
    notMeasured,
    {
      ...overTime(false),
      height: 240,
      scales: { x: time, y: fromZero },
      axes: [xSeconds, axis({ size: 56, values: (_, values) => values.map(cores) })],
      series: [
        atSecond,
        ...nodes.map((node, index) => ({
          ...bare,
          label: node,
          stroke: nodeColour(index),
          width: 2,
          value: (_, value) => cores(value),
        })),
        { ...bare, label: "generator", stroke: ink, width: 1.5, dash: [6, 3], value: (_, value) => cores(value) },
      ],
    },
    [resourceSeconds, ...ofNodes("cpu_cores"), resources.map((point) => point.client_cpu_cores)],
  );
  draw(
    figureIn("resources", "Syncs to disk: P99, and the mean dashed"),
    notMeasured,
    {
      ...overTime(false),
      height: 240,
      scales: { x: time, y: log },
      axes: [xSeconds, msAxis],
      series: [
        atSecond,
        ...nodes.flatMap((node, index) =>
          [
            ["P99", 2, undefined],
            ["mean", 1.25, [4, 4]],
          ].map(([label, width, dash]) => ({
            ...bare,
            label: node + " " + label,
            stroke: nodeColour(index),
            width,
            dash,
            value: (_, value) => ms(value),
          })),
        ),
      ],
    },
    [
      resourceSeconds,
      ...ofNodes("sync_p99_ms").flatMap((p99, index) => [p99, ofNodes("sync_mean_ms")[index]]),
    ],
  );

  // The horizontal axis counts nines: 90 % at 1, 99 % at 2, and so on.
  const nines = (percentile) => -Math.log10(1 - percentile / 100);
  const distributed = [...(names.length > 1 && report.all_ops ? ["all"] : []), ...names];
  const curves = distributed.map((name) =>
    (name === "all" ? report.all_ops : report.by_op[name]).distribution.filter((point) => point.percentile < 100),
  );
  const xs = [...new Set(curves.flatMap((curve) => curve.map((point) => nines(point.percentile))))].sort((a, b) => a - b);
  const percent = (value) => +(100 * (1 - 10 ** -value)).toFixed(6) + " %";
  const percentiles = [0, -Math.log10(0.5), 1, 2, 3, 4, 5, 6];
  draw(
    document.getElementById("distribution"),
    "No operation succeeded.",
    {
      scales: { x: time, y: log },
      axes: [
        axis({
          splits: (_, __, low, high) => percentiles.filter((at) => at >= low - 1e-9 && at <= high + 1e-9),
          values: (_, values) => values.map(percent),
        }),
        msAxis,
      ],
      series: [
        { label: "percentile", value: (_, value) => (value == null ? "-" : percent(value)) },
        ...distributed.map((name) => ({
          label: name,
          stroke: name === "all" ? ink : colour(name),
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
