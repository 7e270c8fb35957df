"use strict";
// The page is whole without this: it only sorts and filters the table, and opens the trial that a link points at.
const table = document.getElementById("all-trials");
if (table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const count = document.getElementById("shown");
  const words = document.getElementById("words");
  const ending = document.getElementById("ending");
  document.getElementById("tools").hidden = false;

  const valueOf = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replaceAll(",", ""));
    return { text, number: /^[\d.,]+( %| s| min| h)?$/.test(text) ? number * unitOf(text) : NaN };
  };
  const unitOf = (text) => (text.endsWith(" min") ? 60 : text.endsWith(" h") ? 3600 : 1);
  const compare = (a, b) => {
    if (Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
    return Number.isNaN(a.number) ? a.text.localeCompare(b.text) : a.number - b.number;
  };
  table.querySelectorAll("thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keys = new Map(rows.map((row) => [row, valueOf(row, head.cellIndex)]));
      rows.sort((a, b) => compare(keys.get(a), keys.get(b)) * (up ? 1 : -1));
      body.append(...rows);
    });
  });

  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = wanted.every((word) => text.includes(word)) && (!ending.value || row.cells[2].textContent.trim() === ending.value);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} trials`;
  };
  words.addEventListener("input", filter);
  ending.addEventListener("change", filter);
  filter();
}
const openTarget = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    for (let part = target; part; part = part.parentElement) if (part instanceof HTMLDetailsElement) part.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus({ preventScroll: true });
  }
};
addEventListener("hashchange", openTarget);
openTarget();
