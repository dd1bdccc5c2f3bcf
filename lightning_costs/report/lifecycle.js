"use strict";
(() => {
  const { page } = window.costs;
  const life = page.lifecycle;
  const chart = document.getElementById("life-chart");
  if (!life || !chart) return;
  const choice = document.getElementById("life-choice");
  const field = document.getElementById("life-queries");
  const slider = document.getElementById("life-slider");
  const hidden = () => [...window.costs.hidden];
  let queries = life.first;
  let view = null;

  const shown = (value) => {
    const whole = value >= 1000 && value < 1e15 ? Math.round(Number(value.toPrecision(3))).toLocaleString("en") : null;
    return whole ?? String(Number(value.toPrecision(3)));
  };
  const count = (value) => `${shown(value)} ${value === 1 ? "query" : "queries"}`;
  const cost = ([once, each], number) => (once === null || each === null ? null : once + number * each);

  const tell = () => {
    const column = life.columns[choice.value];
    const costs = column.runs.map((run) => cost(run, queries));
    const [factor, suffix] = column.query;
    const least = Math.min(...costs.filter((one) => one !== null));
    document.getElementById("life-head").textContent = `after ${count(queries)}`;
    for (const row of document.querySelectorAll("[data-life]")) {
      const run = Number(row.dataset.life);
      const amounts = [...column.runs[run], costs[run]];
      row.querySelectorAll("td[data-part]").forEach((cell, part) => {
        const amount = amounts[part];
        cell.textContent = amount === null ? "missing"
          : part === 1 ? `${shown(amount * factor)} ${suffix}` : `${shown(amount)} ${column.suffix}`;
        cell.classList.toggle("missing", amount === null);
        cell.classList.toggle("best", part === 2 && amount !== null && amount === least);
      });
    }
  };

  const draw = async () => {
    const wanted = choice.value;
    const column = life.columns[wanted];
    const spec = structuredClone(life.spec);
    const steps = Array.from({ length: 8 * life.decades + 1 }, (_, step) => 10 ** (step / 8));
    const footprints = column.runs.flatMap((run, r) => steps.map((n) => ({ r, n, v: cost(run, n) })))
      .filter((point) => point.v > 0);
    spec.background = "transparent";
    spec.datasets = {
      footprints,
      breaks: column.marks.filter((mark) => mark.n >= 1 && mark.n <= 10 ** life.decades && mark.v > 0).map((mark) => ({
        ...mark,
        pair: `${page.labels[mark.a]} and ${page.labels[mark.b]}`,
        at: count(mark.n),
        cost: `${shown(mark.v)} ${column.suffix}`,
      })),
      asked: asked(),
    };
    spec.params.find((param) => param.name === "hidden").value = hidden();
    // Whole domains are named: a mark's layer may be empty, and Vega warns of a scale without extent.
    const values = footprints.map((point) => point.v);
    for (const layer of spec.layer) {
      layer.encoding.x.scale.domain = [1, 10 ** life.decades];
      if (!layer.encoding.y) continue;
      layer.encoding.y.scale.domain = values.length ? [Math.min(...values), Math.max(...values)] : [1, 10];
      layer.encoding.y.title = `${column.label}, training and queries (${column.suffix})\u200b`;
    }
    const result = await vegaEmbed(chart, spec, { actions: false, ast: true, renderer: "svg", tooltip: { theme: "page" } });
    if (choice.value !== wanted) return;
    view?.finalize();
    view = result.view;
    view.data("asked", asked());
    await view.runAsync();
    chart.setAttribute("aria-label", `${column.label} of training and queries, against the number of queries`);
    chart.dataset.drawn = wanted;
    chart.dataset.queries = String(queries);
  };

  const asked = () => (queries >= 1 && queries <= 10 ** life.decades ? [{ n: queries }] : []);

  const ask = (number) => {
    if (!Number.isFinite(number) || number < 0) return false;
    queries = number;
    tell();
    chart.dataset.queries = String(queries);
    if (view) view.data("asked", asked()).runAsync();
    return true;
  };

  field.addEventListener("input", () => {
    const good = field.value.trim() !== "" && ask(Number(field.value));
    field.setAttribute("aria-invalid", String(!good));
    if (good) slider.value = String(queries > 1 ? Math.log10(queries) : 0);
  });
  slider.addEventListener("input", () => {
    const number = Number((10 ** Number(slider.value)).toPrecision(2));
    field.value = String(number);
    field.setAttribute("aria-invalid", "false");
    ask(number);
  });
  choice.addEventListener("change", () => {
    tell();
    draw();
  });
  document.addEventListener("runs-shown", () => view?.signal("hidden", hidden()).runAsync());

  tell();
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((one) => one.isIntersecting)) return;
    near.disconnect();
    draw();
  }, { rootMargin: "300px" });
  near.observe(chart);
})();
