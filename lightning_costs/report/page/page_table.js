(() => {
  // The table of all runs: sorted by any column, searched by name, taken along as CSV.
  const { page } = window.costs;
  const table = document.getElementById("runs");
  if (!table) return;
  const body = table.tBodies[0];
  const says = document.getElementById("runs-say");
  const search = document.getElementById("runs-search");
  const total = body.rows.length;

  const sortBy = (head, down) => {
    const column = head.cellIndex;
    const value = (row) => {
      const { value: text } = row.cells[column].dataset;
      if (column === 0) return row.cells[0].textContent.trim();
      return text === "" || text === undefined ? null : Number.isNaN(Number(text)) ? text : Number(text);
    };
    const rows = [...body.rows].map((row) => [value(row), row]);
    rows.sort(([one], [other]) => {
      if (one === null || other === null) return (one === null) - (other === null);
      const order = typeof one === "string" || typeof other === "string" ? String(one).localeCompare(String(other), "en", { numeric: true }) : one === other ? 0 : one < other ? -1 : 1;
      return down ? -order : order;
    });
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) {
      other.setAttribute("aria-sort", other === head ? (down ? "descending" : "ascending") : "none");
    }
  };
  for (const button of table.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const now = head.getAttribute("aria-sort");
      sortBy(head, now === "none" ? button.dataset.sort === "down" : now === "ascending");
    });
  }

  search?.addEventListener("input", () => {
    const text = search.value.trim().toLowerCase();
    let found = 0;
    for (const row of body.rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(text);
      if (!row.hidden) found += 1;
    }
    says.textContent = text ? `${found.toLocaleString("en")} of ${total.toLocaleString("en")} runs` : "";
  });

  document.getElementById("runs-csv").addEventListener("click", () => {
    // With a byte order mark, a spreadsheet reads it as UTF-8.
    const link = document.createElement("a");
    const place = URL.createObjectURL(new Blob(["\ufeff", page.csv], { type: "text/csv;charset=utf-8" }));
    link.href = place;
    link.download = "runs.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(place), 10_000);
  });
})();
