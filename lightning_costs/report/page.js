"use strict";
(() => {
  const costs = window.costs = {};
  const page = costs.page = JSON.parse(document.getElementById("page-data").textContent);
  const hidden = new Set();
  const views = new Map();
  const wanted = new WeakMap();
  let log = true;

  // Columns become rows once; every chart reads the same ones.
  const datasets = costs.datasets = Object.fromEntries(Object.entries(page.datasets).map(([name, columns]) => {
    const keys = Object.keys(columns);
    return [name, columns.r.map((run, row) => {
      const point = { run: page.labels[run] };
      for (const key of keys) point[key] = columns[key][row];
      return point;
    })];
  }));

  // A shape is the specification of every chart that looks like it, but for the axis.
  const filled = (shape, fills) =>
    JSON.parse(JSON.stringify(shape).replace(/@x-(field|label|unit)@/g, (_, key) => fills[key]));

  const specification = (name, small) => {
    const chart = page.charts[name];
    const spec = filled(page.shapes[chart.shape], chart.fills);
    const logarithmic = log && chart.positive;
    spec.datasets = { [chart.source]: datasets[chart.source] };
    spec.params.find((param) => param.name === "log").value = logarithmic;
    spec.params.find((param) => param.name === "hidden").value = [...hidden];
    for (const layer of spec.layer) {
      const { padding } = layer.encoding.x.scale;
      const linear = { type: "linear", nice: false, padding, zero: false };
      layer.encoding.x.scale = logarithmic ? { type: "log", nice: false, padding } : linear;
      if (small) layer.encoding.y.title = null;
    }
    if (small) {
      spec.height = 170;
      spec.config.axis.tickCount = 4;
    }
    return spec;
  };

  const draw = async (element) => {
    const name = element.dataset.chart;
    if (!name || !page.charts[name]) return;
    const drawn = `${name} ${log ? "log" : "linear"}`;
    const mine = {};
    wanted.set(element, mine);
    const result = await vegaEmbed(element, specification(name, element.classList.contains("small")), {
      actions: false, ast: true, renderer: "svg", tooltip: { theme: "page" },
    });
    if (wanted.get(element) !== mine) return;
    views.get(element)?.finalize();
    views.set(element, result.view);
    await result.view.signal("hidden", [...hidden]).runAsync();
    element.setAttribute("aria-label", page.charts[name].label);
    element.dataset.drawn = drawn;
  };
  // Charts of these columns, where they have been drawn.
  costs.redraw = (names) => Promise.all([...views.keys()].filter((one) => names.has(one.dataset.chart)).map(draw));

  const main = document.getElementById("main-chart");
  const choice = document.getElementById("x-choice");
  if (!main || !choice || !choice.value) return;

  costs.choose = (name) => {
    choice.value = name;
    choice.dispatchEvent(new Event("change"));
  };

  choice.addEventListener("change", () => {
    main.dataset.chart = choice.value;
    draw(main);
  });

  for (const button of document.querySelectorAll("[data-scale]")) {
    button.addEventListener("click", () => {
      log = button.dataset.scale === "log";
      for (const other of document.querySelectorAll("[data-scale]")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      for (const element of [main, ...views.keys()].filter((one, i, all) => all.indexOf(one) === i)) draw(element);
    });
  }

  for (const button of document.querySelectorAll("[data-run]")) {
    button.addEventListener("click", () => {
      const run = Number(button.dataset.run);
      if (!hidden.delete(run)) hidden.add(run);
      const shown = String(!hidden.has(run));
      for (const same of document.querySelectorAll(`[data-run="${run}"]`)) same.setAttribute("aria-pressed", shown);
      for (const view of views.values()) view.signal("hidden", [...hidden]).runAsync();
    });
  }

  main.dataset.chart = choice.value;
  draw(main);
  // Small charts are drawn when they come near the window: a page of forty would otherwise open slowly.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "300px" });
  for (const element of document.querySelectorAll(".chart.small")) near.observe(element);
})();
