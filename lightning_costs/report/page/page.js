"use strict";
(() => {
  const costs = window.costs = {};
  const page = costs.page = JSON.parse(document.getElementById("page-data").textContent);
  const hidden = new Set();
  const views = new Map();
  const wanted = new WeakMap();
  let log = true;

  // Columns become rows once; every chart takes its own two columns of them.
  const datasets = Object.fromEntries(Object.entries(page.datasets).map(([name, columns]) => {
    const keys = Object.keys(columns);
    return [name, columns.r.map((run, row) => {
      const point = { run: page.labels[run], k: page.keys[run] };
      for (const key of keys) point[key] = columns[key][row];
      return point;
    })];
  }));

  const drawable = (value, logarithmic) => value !== null && value !== undefined && (!logarithmic || value > 0);
  // As `tooltip_of` in charts.py has it, and why.
  const tooltip = (lines) => {
    const titles = [];
    for (const [title] of lines) {
      let line = `${title.split(/\s+/).join(" ").slice(0, 80)}:`;
      while (titles.includes(line)) line += "\u200b"; // an expression takes no title twice: one cost on both axes
      titles.push(line);
    }
    return { expr: `{${lines.map(([, code], i) => `${JSON.stringify(titles[i])}: ${code}`).join(", ")}}` };
  };
  const at = (field) => `(datum.datum || datum).${field}`;
  const amount = (field, suffix) => `format(${at(field)}, ',.4~r')${suffix ? ` + ${JSON.stringify(` ${suffix}`)}` : ""}`;
  const scaled = (was, logarithmic) => ({
    ...was, type: logarithmic ? "log" : "linear", nice: false, ...(logarithmic ? { zero: undefined } : { zero: false }),
  });

  // Whole domains are named: a layer may be empty, and Vega warns of a scale without extent. They are those of the
  // runs that are shown, so that hiding some looks closer at the others.
  const domain = (spec, channel, all, fixed) => {
    const seen = all.filter((row) => !hidden.has(row.k));
    const rows = seen.length ? seen : all;
    let [low, high] = rows.reduce(([least, most], row) => [Math.min(least, row[channel]), Math.max(most, row[channel])], [Infinity, -Infinity]);
    if (fixed) [low, high] = fixed;
    if (low === high) [low, high] = low > 0 ? [low * 0.95, high * 1.05] : [low - 1, high + 1];
    for (const layer of spec.layer) {
      const encoding = layer.encoding?.[channel];
      if (encoding?.field) encoding.scale = { ...encoding.scale, domain: [low, high] };
    }
  };

  // Titles, scales and tooltips of the layers that have them; a zero-width space as in charts.py.
  const fill = (spec, titles, logs, tips) => {
    for (const layer of spec.layer) {
      for (const channel of ["x", "y"]) {
        const encoding = layer.encoding?.[channel];
        if (encoding?.field !== channel && !(channel === "y" && ["low", "middle"].includes(encoding?.field))) continue;
        encoding.title = titles[channel] === null ? null : `${titles[channel]}\u200b`;
        encoding.scale = scaled(encoding.scale, logs[channel]);
      }
      if (layer.mark.type !== "point" && layer.mark.type !== "rect") continue;
      layer.mark.tooltip = tooltip(tips[layer.mark.type] ?? tips.point);
      // What a screen reader says of a point: the run and its amounts.
      if (layer.mark.aria !== false) layer.mark.description = { expr: tips.point.map(([, code]) => code).join(" + ', ' + ") };
    }
    return spec;
  };

  const kinds = {
    // Quality against an independent cost, over what tells runs apart; groups have a median line and a band.
    quality(element) {
      return kinds.curve(element, page.domain, page.bands[element.dataset.chart]);
    },
    curve(element, shown, columns) {
      const [name, other] = [element.dataset.chart, element.dataset.y ?? ""];
      const [x, y] = [page.axes[name], page.axes[other]];
      if (!x) return null;
      const still = x.static || Boolean(y?.static);
      const logs = { x: log && x.positive, y: log && Boolean(y?.positive) };
      const [fx, fy] = [x.field, y ? y.field : "q"];
      const rows = datasets[still ? "finals" : "curves"]
        .filter((row) => drawable(row[fx], logs.x) && drawable(row[fy], logs.y))
        .map((row) => ({ run: row.run, r: row.r, k: row.k, s: row.s, m: row.m, x: row[fx], y: row[fy] }));
      const bands = (columns?.[0] ?? []).map((k, i) => ({ k, x: columns[1][i], low: columns[2][i], middle: columns[3][i], high: columns[4][i] }))
        .filter((row) => drawable(row.x, logs.x));
      const kind = still ? "point" : bands.length ? "banded" : "curve";
      const title = y ? y.title : still ? page.quality.best : page.quality.title;
      const spec = fill(structuredClone(page.templates[kind]), { x: x.title, y: title }, logs, {
        point: [["run", at("run")], [still ? "step of the best" : "step", at("s")], [y ? y.label : page.quality.label, amount("y", y?.suffix)],
          [x.label, amount("x", x.suffix)]],
      });
      const within = shown ? rows.filter((row) => row.y >= shown[0] && row.y <= shown[1]) : rows;
      domain(spec, "x", within.length ? within : rows);
      domain(spec, "y", rows, shown);
      return { spec, data: kind === "banded" ? { rows, bands } : { rows }, drawn: `${name}${y ? ` ${other}` : ""} ${log ? "log" : "linear"}`,
        label: `${y ? y.title : page.quality.label} against ${x.title}` };
    },
    front(element) {
      const name = element.dataset.chart;
      const x = page.axes[name];
      const front = x && page.fronts[name];
      if (!front) return null;
      const logs = { x: log && x.positive, y: false };
      const on = new Set(front.drawn);
      const all = datasets.finals.map((row) => ({ run: row.run, r: row.r, k: row.k, x: row[x.field], y: row.q, f: on.has(row.r) ? 1 : 0 }));
      const others = new Set(front.others);
      page.others?.run.forEach((run, i) => {
        all.push({ run, r: -1, k: -1, x: page.others[x.field][i], y: page.others.q[i], f: others.has(i) ? 1 : 0 });
      });
      const rows = all.filter((row) => drawable(row.x, logs.x) && drawable(row.y, false));
      const spec = fill(structuredClone(page.templates.front), { x: x.title, y: page.quality.best }, logs, {
        point: [["run", at("run")], [page.quality.best, amount("y", "")], [x.label, amount("x", x.suffix)]],
      });
      domain(spec, "x", rows);
      domain(spec, "y", rows);
      if (x.higher) spec.layer[0].mark.interpolate = "step-before";
      return { spec, data: { rows }, drawn: `${name} ${log ? "log" : "linear"}`,
        label: `Pareto front of ${page.quality.label} and ${x.title}` };
    },
    sweep(element) {
      const name = element.dataset.chart;
      const y = page.axes[name];
      const found = y && page.sweep?.costs[name];
      if (!found) return null;
      const logs = { x: false, y: log && y.positive };
      const rows = found.flatMap((column, r) => column.map((value, i) => ({
        run: page.labels[r], r, k: page.keys[r], x: page.sweep.targets[i], y: value,
      }))).filter((row) => drawable(row.y, logs.y));
      const spec = fill(structuredClone(page.templates.sweep), { x: page.quality.title, y: y.title }, logs, {
        point: [["run", at("run")], ["target", amount("x", "")], [y.label, amount("y", y.suffix)]],
        rect: [["needs least", at("least")], ["after", amount("a", "")], ["up to", amount("b", "")]],
      });
      domain(spec, "x", page.sweep.targets.map((x) => ({ x })));
      domain(spec, "y", rows);
      return { spec, data: { rows, ranges: page.sweep.ranges[name] }, drawn: `${name} ${log ? "log" : "linear"}`,
        label: `${y.title} to reach each ${page.quality.label}` };
    },
    bump(element) {
      const bump = page.bumps[element.dataset.basis];
      if (!bump) return null;
      const { rows } = bump;
      const spec = structuredClone(bump.spec);
      domain(spec, "y", rows.map((row) => ({ k: row.k, y: row.rank })));
      return { spec, data: { rows }, drawn: element.dataset.basis, label: "Ranks of the runs by every headline indicator" };
    },
    parts(element) {
      const part = page.parts[element.dataset.theme];
      if (!part) return null;
      const { rows } = part;
      const spec = structuredClone(part.spec);
      // Bars and linear axes begin at nothing.
      const ends = rows.map((row) => ({ k: row.k, x: row.b ?? row.v }));
      domain(spec, "x", part.far ? ends : [...ends, { k: -1, x: 0 }]);
      return { spec, data: { rows }, drawn: element.dataset.theme, label: part.title };
    },
    life(element) {
      const life = page.lifecycle[element.dataset.chart];
      const spec = structuredClone(life.spec);
      domain(spec, "x", life.rows);
      domain(spec, "y", life.rows);
      return { spec, data: { rows: life.rows, marks: life.marks }, drawn: element.dataset.chart, label: life.title };
    },
  };

  const draw = async (element) => {
    const made = kinds[element.dataset.plot](element);
    const mine = {};
    wanted.set(element, mine);
    if (!made?.data.rows.length) {
      views.get(element)?.finalize();
      views.delete(element);
      element.textContent = "Nothing to draw here: no run has both.";
      element.dataset.drawn = made?.drawn ?? "nothing";
      return;
    }
    const { spec } = made;
    spec.datasets = made.data;
    spec.background = "transparent";
    spec.params.find((param) => param.name === "hidden").value = [...hidden];
    if (element.classList.contains("small")) {
      spec.height = element.clientWidth < 480 ? 190 : 250;
    } else if (element.clientWidth < 480) {
      if (spec.height === 420) spec.height = 320;
      spec.config.axis.labelLimit = 96;
      for (const { encoding } of spec.layer) {
        for (const legend of [encoding?.color?.legend, encoding?.shape?.legend]) if (legend) legend.columns = 1;
      }
    }
    const result = await vegaEmbed(element, spec, { actions: false, ast: true, renderer: "svg", tooltip: { theme: "page" } });
    if (wanted.get(element) !== mine) {
      result.finalize();
      return;
    }
    views.get(element)?.finalize();
    views.set(element, result.view);
    await result.view.signal("hidden", [...hidden]).runAsync();
    element.setAttribute("aria-label", made.label);
    element.dataset.drawn = made.drawn;
  };

  // A control that names a chart and what of it to set.
  for (const control of document.querySelectorAll("select[data-for]")) {
    const chart = document.getElementById(control.dataset.for);
    chart.dataset[control.dataset.sets] = control.value;
    control.addEventListener("change", () => {
      chart.dataset[control.dataset.sets] = control.value;
      for (const table of document.querySelectorAll(`[data-basis-of="${control.id}"]`)) table.hidden = table.dataset.basis !== control.value;
      draw(chart);
    });
  }

  for (const button of document.querySelectorAll("[data-scale]")) {
    button.addEventListener("click", () => {
      log = button.dataset.scale === "log";
      for (const other of document.querySelectorAll("[data-scale]")) {
        other.setAttribute("aria-pressed", String(other.dataset.scale === button.dataset.scale));
      }
      for (const element of views.keys()) if (["curve", "quality", "front", "sweep"].includes(element.dataset.plot)) draw(element);
    });
  }

  const shown = () => {
    for (const button of document.querySelectorAll("[data-run]")) {
      button.setAttribute("aria-pressed", String(!hidden.has(Number(button.dataset.run))));
    }
    for (const view of views.values()) view.signal("hidden", [...hidden]).runAsync();
    for (const element of views.keys()) if (["curve", "quality"].includes(element.dataset.plot)) draw(element);
  };
  for (const button of document.querySelectorAll("[data-run]")) {
    button.addEventListener("click", () => {
      const run = Number(button.dataset.run);
      if (!hidden.delete(run)) hidden.add(run);
      shown();
    });
  }
  for (const button of document.querySelectorAll("[data-runs]")) {
    button.addEventListener("click", () => {
      hidden.clear();
      if (button.dataset.runs === "none") for (const other of document.querySelectorAll("[data-run]")) hidden.add(Number(other.dataset.run));
      shown();
    });
  }

  // Charts are drawn when they come near the window, the others when the page has nothing else to do.
  const waiting = new Set(document.querySelectorAll(".chart[data-plot]"));
  const begin = (element) => {
    waiting.delete(element);
    near.unobserve(element);
    return draw(element);
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && waiting.has(entry.target)) begin(entry.target);
  }, { rootMargin: "300px" });
  for (const element of waiting) near.observe(element);
  const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 50));
  const rest = async () => {
    const next = [...waiting].find((one) => one.clientWidth > 0);
    if (!next) return;
    await begin(next);
    idle(rest);
  };
  idle(rest);

  // On paper no chart is a click away: what holds one is open, and drawn before the page is laid out; so are reasons.
  const opened = new Set();
  window.addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.drawer:not([open]):has(.chart), #missing:not([open])")) {
      fold.open = true;
      opened.add(fold);
    }
    for (const element of waiting) if (element.clientWidth > 0) begin(element);
  });
  window.addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
    opened.clear();
  });

  // A link to what is folded opens it.
  const reveal = () => {
    const fold = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (fold instanceof HTMLDetailsElement) fold.open = true;
  };
  window.addEventListener("hashchange", reveal);
  reveal();
})();
