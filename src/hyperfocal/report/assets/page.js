"use strict";
(() => {
  const number = (text) => new Intl.NumberFormat("en").format(text);

  // Tables: sort by a column, filter by words, open all rows.
  for (const figure of document.querySelectorAll("figure.table")) {
    const table = figure.querySelector("table");
    const body = table.tBodies[0];
    const filter = figure.querySelector("input[type=search]");
    const count = figure.querySelector("output");
    const more = figure.querySelector("button.more");
    const first = Number(figure.dataset.first);
    let rows = [...body.rows];
    let open = !more;

    const said = (row) => [...row.querySelectorAll("th, td.text")].map((cell) => cell.textContent).join(" ").toLocaleLowerCase();
    const texts = new Map(rows.map((row) => [row, said(row)]));

    const show = () => {
      const words = filter ? filter.value.toLocaleLowerCase().split(/\s+/).filter(Boolean) : [];
      const fits = rows.filter((row) => words.every((word) => texts.get(row).includes(word)));
      const shown = new Set(open ? fits : fits.slice(0, first));
      for (const row of rows) row.hidden = !shown.has(row);
      if (count) count.textContent = `${number(shown.size)} of ${number(fits.length)} rows`;
      if (more) {
        more.hidden = fits.length <= first;
        more.textContent = open ? `Show the first ${first}` : `Show all ${number(fits.length)}`;
      }
    };

    const valueOf = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
    };
    const byColumn = (column, sign) => (a, b) => {
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      if (typeof x === "number" && typeof y === "number") return sign * (x - y);
      if (typeof x === "number") return -1; // rows without a number come last
      if (typeof y === "number") return 1;
      return sign * x.localeCompare(y, undefined, { numeric: true });
    };
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : !head.classList.contains("text");
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        rows.sort(byColumn(column, down ? -1 : 1));
        body.append(...rows);
        show();
      });
    });
    if (filter) filter.addEventListener("input", show);
    if (more) {
      more.addEventListener("click", () => {
        open = !open;
        show();
      });
    }
    show();
  }

  // Charts: drawn as SVG whose colors are the page's own, so that they follow light and dark.
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const options = { renderer: "svg", actions: false, ast: true, tooltip: { theme: "custom" } };
  const draw = async (place) => {
    const spec = specs[Number(place.dataset.chart)];
    const { view } = await vegaEmbed(place, spec, options);
    const choice = place.parentElement.querySelector("fieldset[data-switch]");
    const set = (value) => view.signal(choice.dataset.switch, value).runAsync();
    if (choice) choice.addEventListener("change", (event) => set(event.target.value));
    place.dataset.drawn = "";
    return view;
  };
  const places = [...document.querySelectorAll(".vega")];
  const closed = (place) => place.closest("details:not([open])");
  (async () => {
    for (const place of places.filter((each) => !closed(each))) {
      await draw(place);
      await new Promise((done) => setTimeout(done)); // the page answers between two charts
    }
    document.documentElement.dataset.ready = "";
  })();
  for (const details of document.querySelectorAll("details")) {
    details.addEventListener("toggle", () => {
      for (const place of details.querySelectorAll(".vega:not([data-drawn])")) if (!closed(place)) draw(place);
    });
  }
})();
