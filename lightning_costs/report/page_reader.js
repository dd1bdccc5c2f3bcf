(() => {
  // Carbon and money under the reader's tariff: one number times what each run used. Who leads, which runs are on a
  // front and how ranks agree are those of the physical column behind, which the page holds already.
  const { page, datasets } = window.costs;
  const { recorded, columns, bases, flips, headlines, summaries } = page.reader;
  const section = document.getElementById("reader");
  if (!section) return;
  section.hidden = false;
  const inputs = [...section.querySelectorAll("[data-rate]")];
  const banner = document.getElementById("reader-banner");
  const says = document.getElementById("reader-says");
  const J_PER_KWH = 3.6e6;
  const FORMULAS = {
    // In the order of core/rates.py, so that the last digit is the same.
    co2e_g: { rate: "gco2e_per_kwh", pue: true, of: (r) => (x) => x / J_PER_KWH * (r.pue ?? 1) * r.gco2e_per_kwh },
    electricity_usd: { rate: "usd_per_kwh", pue: true, of: (r) => (x) => x / J_PER_KWH * (r.pue ?? 1) * r.usd_per_kwh },
    cloud_usd: { rate: "usd_per_device_h", pue: false, of: (r) => (x) => x / 3600 * r.usd_per_device_h },
  };
  const NAMES = {
    gco2e_per_kwh: (x) => `${x} g CO2e/kWh`, pue: (x) => `PUE ${x}`, usd_per_device_h: (x) => `${x} USD per device and hour`,
    usd_per_kwh: (x) => `${x} USD/kWh of electricity`,
  };

  // Amounts in words, as the tables of the page have them. Python rounds an exact half to the even digit.
  const toEven = (rounded, exact, places) => {
    const [number, power = ""] = exact.split("e");
    const cut = number.slice(0, number.indexOf(".") + (places ? places + 1 : 0));
    const half = /^50*$/.test(number.slice(number.indexOf(".") + 1 + places));
    return half && "02468".includes(cut.at(-1)) ? cut + (power && `e${power}`) : rounded;
  };
  const fixed = (x, places) => toEven(x.toFixed(places), x.toFixed(places + 40), places);
  const exponential = (x) => toEven(x.toExponential(2), x.toExponential(60), 2).replace(/e([+-])(\d)$/, "e$10$2");
  const places = (x) => (x ? Math.max(0, 2 - Math.floor(Math.log10(Math.abs(x)))) : 0);
  const digits = (x) => {
    if (Number.isInteger(x) && Math.abs(x) < 1e5) return String(x);
    if (x && (Math.abs(x) < 1e-4 || Math.abs(x) >= 1e6)) return exponential(x);
    return fixed(x, places(x));
  };
  const grams = (x) => {
    let power = 0;
    while (Math.abs(x) >= 1000 && power < 2) { x /= 1000; power += 1; }
    let text;
    if (x && Math.abs(x) < 1e-3) text = exponential(x);
    else if (power === 0 && Math.abs(x) < 999.5) text = String(Number(fixed(x, places(x))));
    else text = fixed(x, Math.abs(x) < 10 ? 2 : Math.abs(x) < 100 ? 1 : 0);
    return `${text} ${["g", "kg", "Mg"][power]}`;
  };
  const human = (x, unit) => (unit === "g" ? grams(x) : `$${digits(x)}`);

  // Everything that may change, as it was.
  const kept = new Map();
  const keep = (element) => {
    if (!kept.has(element)) kept.set(element, { html: element.innerHTML, className: element.className, title: element.title, value: element.dataset.value });
  };
  const restore = () => {
    for (const [element, was] of kept) {
      element.innerHTML = was.html;
      element.className = was.className;
      if (was.value !== undefined) element.dataset.value = was.value;
      if (was.title) element.title = was.title; else element.removeAttribute("title");
    }
    kept.clear();
  };
  const axes = Object.fromEntries(Object.keys(columns).map((name) => [name, page.axes[name]]));
  const rowsOf = (name) => document.querySelectorAll(`tr[data-line="${name}"]`);
  const write = (cell, { text, note = "", best = false, missing = false }) => {
    keep(cell);
    cell.className = best ? "best" : missing ? "missing" : "";
    cell.textContent = text;
    if (note) cell.title = note; else cell.removeAttribute("title");
    if (best) {
      const star = document.createElement("span");
      star.className = "star";
      star.setAttribute("aria-label", "least");
      star.textContent = "★";
      cell.append(star);
    }
  };

  const target = (row, name, priced) => {
    const { base, unit } = columns[name];
    const found = bases[base].targets[Number(row.closest("table").dataset.target)];
    if (!found) return;
    const point = ([cost, quality]) => `${quality} at ${cost === null ? "missing" : human(priced(cost), unit)}`;
    found.spends.forEach((spend, run) => {
      const notes = [];
      if (spend.miss) notes.push(`last evaluation short of it: ${point(spend.miss)}`);
      if (spend.hit) notes.push(`first one at or past it: ${point(spend.hit)}`);
      const within = spend.end === null ? "not reached" : `not reached within ${human(priced(spend.end), unit)}`;
      const reached = spend.reached ? (spend.cost === null ? "missing" : human(priced(spend.cost), unit)) : within;
      write(row.cells[run + 1], {
        text: reached, note: notes.join("; "), best: found.winners.includes(run), missing: !spend.reached || spend.cost === null,
      });
    });
  };

  const front = (row, name) => {
    const behind = document.querySelector(`table.fronts tr[data-line="${columns[name].base}"]`);
    if (!behind) { row.hidden = true; return; }
    [...behind.cells].slice(1).forEach((cell, run) => {
      write(row.cells[run + 1], { text: cell.textContent });
      row.cells[run + 1].className = cell.className;
    });
  };

  const final = (row, name, priced, how) => {
    const { base, unit } = columns[name];
    bases[base].finals.forEach((amount, run) => {
      write(row.cells[run + 1], amount === null ? { text: "missing", note: `${base} is missing`, missing: true }
        : { text: human(priced(amount), unit), note: how });
    });
    const last = row.cells[row.cells.length - 1];
    keep(last);
    last.textContent = how;
  };

  const matrices = (chosen) => {
    const behind = (name) => (name in chosen ? columns[name].base : name);
    for (const table of document.querySelectorAll("table.matrix")) {
      const rows = [...table.tBodies[0].rows];
      const at = Object.fromEntries(rows.map((row, i) => [row.dataset.line, i]));
      const was = rows.map((row) => [...row.cells].slice(2).map((cell) => [cell.className, cell.textContent, cell.title]));
      rows.forEach((row, i) => rows.forEach((other, j) => {
        const [a, b] = [row.dataset.line, other.dataset.line];
        if (a === b ? !(a in chosen) : !(a in chosen || b in chosen)) return;
        const [x, y] = [behind(a), behind(b)];
        const cell = row.cells[j + 2];
        keep(cell);
        const differ = x in bases && new Set(bases[x].finals.filter((amount) => amount !== null)).size > 1;
        const [className, text, title] = a === b ? ["", "1", "an indicator with itself"]
          : x !== y ? was[at[x]][at[y]]
            : [differ ? "s4" : "", differ ? "1.00" : "–", "one is the other times a number"];
        cell.className = className;
        cell.textContent = text;
        cell.title = x === y ? title : `as ${title}`;
      }));
    }
  };

  const disagreements = (chosen) => {
    const place = document.getElementById("flips");
    if (!place) return;
    keep(place);
    const shown = Object.keys(headlines).filter((name) => name in chosen || document.querySelector(`.matrix tr[data-line="${name}"]:not([data-room])`));
    const behind = (name) => (name in chosen ? columns[name].base : name);
    const found = [];
    shown.forEach((a, i) => shown.slice(i + 1).forEach((b) => {
      const [x, y] = [behind(a), behind(b)];
      for (const { pair, discordant, n, flips: order } of x === y ? [] : flips) {
        if (pair[0] === x && pair[1] === y) found.push({ a, b, discordant, n, order });
        if (pair[0] === y && pair[1] === x) found.push({ a, b, discordant, n, order: order.map(([one, other]) => [other, one]) });
      }
    }));
    found.sort((one, other) => other.discordant - one.discordant);
    const [list, rest] = [document.createElement("ul"), document.createElement("ul")];
    list.className = rest.className = "flips";
    found.forEach(({ a, b, discordant, n, order }, i) => {
      const item = document.createElement("li");
      const pair = document.createElement("strong");
      pair.textContent = `${headlines[a]} and ${headlines[b]}`;
      const told = order.slice(0, 4).map(([one, other]) => `${one} ⇄ ${other}`).join("; ");
      item.append(pair, ` disagree on ${discordant} of ${n}: ${told}${order.length > 4 ? `; ${order.length - 4} more` : ""}`);
      (i < 6 ? list : rest).append(item);
    });
    for (const old of place.querySelectorAll("ul, details")) old.remove();
    place.append(list);
    if (!rest.children.length) return;
    const more = document.createElement("details");
    const summary = document.createElement("summary");
    summary.textContent = `${rest.children.length} more pairs of costs`;
    more.append(summary, rest);
    place.append(more);
  };

  const drawAs = (name, priced) => {
    const { base, field, static: still, positive, label, unit } = columns[name];
    const all = [...bases[base].curves, ...bases[base].every].map((amount) => Math.abs(priced(amount ?? 0)));
    const most = all.reduce((one, other) => Math.max(one, other), 0);
    const [factor, word] = unit !== "g" ? [1, "USD"] : most >= 1e6 ? [1e6, "Mg"] : most >= 1e3 ? [1e3, "kg"] : [1, "g"];
    const told = (amount) => (amount === null ? null : Number((priced(amount) / factor).toPrecision(5)));
    for (const source of ["curves", "finals"]) datasets[source].forEach((row, i) => { row[field] = told(bases[base][source][i]); });
    if (page.others) page.others[field] = page.others.at.map((run) => told(bases[base].every[run]));
    const option = document.querySelector(`#x-choice option[value="${name}"]`);
    if (option) {
      keep(option);
      option.textContent = `${option.textContent.replace(/ \([^()]*\)$/, "")} (${word}), reader's tariff`;
    }
    page.axes[name] = {
      field, label, title: `${label} (${word})`, suffix: word, static: still, positive: positive && priced(1) > 0, higher: false,
      behind: base, times: priced(page.axes[base].factor) / factor, reader: true,
    };
  };

  // The table of all runs: amounts in words, and as numbers to sort by.
  const listed = (name, priced) => {
    for (const cell of document.querySelectorAll(`#runs td[data-column="${name}"]`)) {
      const amount = bases[columns[name].base].every[Number(cell.parentElement.dataset.number)];
      keep(cell);
      cell.className = amount === null ? "missing" : "reader";
      cell.textContent = amount === null ? "missing" : human(priced(amount), columns[name].unit);
      cell.dataset.value = amount === null ? "" : String(priced(amount));
    }
  };

  const mark = (name, on, isPriced) => {
    for (const element of document.querySelectorAll(`[data-line="${name}"]`)) {
      element.classList.toggle("reader", on);
    }
    for (const element of document.querySelectorAll(`[data-room="${name}"]`)) {
      element.hidden = !on;
      if (element.tagName === "OPTION") element.disabled = !on;
    }
    const main = document.getElementById("main-chart");
    if (!on && !isPriced && main?.dataset.chart === name) {
      window.costs.choose([...document.getElementById("x-choice").options].find((option) => !option.disabled).value);
    }
  };

  const apply = () => {
    const rates = {};
    let right = true;
    for (const input of inputs) {
      const name = input.dataset.rate;
      const number = input.value.trim() === "" && !input.validity.badInput ? null : Number(input.value);
      const wrong = input.validity.badInput || number !== null && (!Number.isFinite(number)
        || (name === "pue" ? number < 1 : name === "gco2e_per_kwh" ? number < 0 : number <= 0));
      input.setCustomValidity(wrong ? `${name} must be ${name === "pue" ? "at least 1" : name === "gco2e_per_kwh" ? "at least 0" : "above 0"}` : "");
      right &&= !wrong;
      rates[name] = number;
      input.classList.toggle("changed", number !== recorded[name]);
    }
    const changed = inputs.some((input) => input.classList.contains("changed"));
    for (const button of document.querySelectorAll("[data-reset]")) button.disabled = !changed;
    const chosen = {};
    const lacking = [];
    for (const name of right ? Object.keys(columns) : []) {
      const { rate, pue, of } = FORMULAS[name];
      const differs = rates[rate] !== recorded[rate] || pue && rates.pue !== recorded.pue;
      if (differs && rates[rate] !== null) chosen[name] = of(rates);
      else if (differs) lacking.push(name);
    }
    restore();
    const lead = document.getElementById("lead");
    const key = Object.keys(columns).filter((name) => name in chosen && name in headlines).join(",");
    if (summaries[key]) {
      keep(lead);
      lead.replaceChildren(...summaries[key].map((sentence) => {
        const paragraph = document.createElement("p");
        paragraph.textContent = sentence;
        return paragraph;
      }));
    }
    matrices(chosen);
    if (Object.keys(chosen).length) disagreements(chosen);
    for (const name of Object.keys(columns)) {
      const on = name in chosen;
      mark(name, on, Boolean(axes[name]));
      if (!on) {
        if (axes[name]) page.axes[name] = axes[name]; else delete page.axes[name];
        continue;
      }
      const { rate, pue } = FORMULAS[name];
      const overhead = rates.pue === null ? "IT energy alone" : NAMES.pue(rates.pue);
      const how = `reader's tariff: ${NAMES[rate](rates[rate])}${pue ? `; ${overhead}` : ""}`;
      for (const row of rowsOf(name)) {
        const table = row.closest("table");
        if (table.classList.contains("targets")) target(row, name, chosen[name]);
        if (table.classList.contains("fronts")) front(row, name);
        if (table.classList.contains("finals")) final(row, name, chosen[name], how);
      }
      drawAs(name, chosen[name]);
      listed(name, chosen[name]);
    }
    for (const group of document.querySelectorAll("optgroup[data-room]")) {
      group.hidden = [...group.children].every((option) => option.disabled);
    }
    const main = document.getElementById("main-chart");
    main?.classList.toggle("reader", main.dataset.chart in chosen);
    banner.hidden = !Object.keys(chosen).length;
    const used = new Set(Object.keys(chosen).flatMap((name) => [FORMULAS[name].rate, ...(FORMULAS[name].pue ? ["pue"] : [])]));
    banner.querySelector("span").textContent = Object.keys(NAMES).filter((rate) => used.has(rate) && rates[rate] !== null)
      .map((rate) => NAMES[rate](rates[rate])).join(" · ");
    const labels = (names) => names.map((name) => (document.querySelector(`table.finals tr[data-line="${name}"] .label`)?.textContent ?? name)).join(", ");
    says.textContent = !right ? "A price must be above 0, a PUE at least 1, an intensity at least 0: nothing is priced anew."
      : [Object.keys(chosen).length ? `Under your tariff: ${labels(Object.keys(chosen))}.` : "",
        lacking.length ? `As recorded, because a rate is left empty: ${labels(lacking)}.` : ""].filter(Boolean).join(" ");
    document.body.dataset.reader = Object.keys(chosen).join(" ");
    return window.costs.redraw(new Set(Object.keys(columns)));
  };

  // A slider beside each field: it follows the field, and the field follows it.
  const slides = new Map(inputs.map((input) => [input, section.querySelector(`[data-slide="${input.dataset.rate}"]`)]));
  const follow = () => {
    for (const [input, slide] of slides) {
      slide.value = input.value === "" ? slide.min : input.value;
      slide.classList.toggle("unset", input.value === "");
    }
  };
  for (const [input, slide] of slides) {
    slide.addEventListener("input", () => {
      input.value = String(Number(slide.value));
      input.dispatchEvent(new Event("input"));
    });
  }
  follow();

  let waiting;
  for (const input of inputs) {
    input.addEventListener("input", () => {
      follow();
      clearTimeout(waiting);
      waiting = setTimeout(apply, 150);
    });
  }
  for (const button of document.querySelectorAll("[data-reset]")) {
    button.addEventListener("click", () => {
      for (const input of inputs) input.value = recorded[input.dataset.rate] ?? "";
      follow();
      apply();
    });
  }
  document.getElementById("x-choice")?.addEventListener("change", (event) => {
    document.getElementById("main-chart").classList.toggle("reader", (document.body.dataset.reader ?? "").split(" ").includes(event.target.value));
  });
})();
