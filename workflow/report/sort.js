// A click on a head sorts its table: numbers as numbers, what is missing last.
for (const button of document.querySelectorAll("table.sortable th button")) button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0], at = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => row.cells[at].dataset.value;
  const order = (a, b) => (a === "") - (b === "") || (down ? -1 : 1) * (a - b || (isNaN(a - b) ? a.localeCompare(b) : 0));
  body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
});
