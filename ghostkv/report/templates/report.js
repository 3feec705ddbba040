"use strict";
// The page is whole without this. Here its pictures become live charts, and its tables can be sorted, filtered and saved.
(async () => {
  const made = (tag, more) => Object.assign(document.createElement(tag), more);
  const button = (label, title, act) => {
    const found = made("button", { type: "button", textContent: label, title });
    found.addEventListener("click", act);
    return found;
  };
  const save = (name, url) => made("a", { download: name, href: url }).click();
  const bytes = Uint8Array.from(atob(document.getElementById("packed").textContent), (one) => one.charCodeAt(0));
  const { blocks: packed, methods } = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  const csv = (name) => button("CSV", `Save the numbers as ${name}.csv`, () =>
    save(`${name}.csv`, URL.createObjectURL(new Blob([packed[name].csv], { type: "text/csv" }))));

  // One name stands out in every chart that has it.
  const views = new Map();
  let chosen = null;
  const stands = (name) => (chosen !== null && packed[name].names.includes(chosen) ? [chosen] : []);
  const field = (name) => [{ type: "E", field: packed[name].field }];
  const mark = (name, view) => {
    const wanted = stands(name);
    const now = view.data("chosen_store").flatMap((row) => row.values);
    if (String(now) === String(wanted)) return;
    const rows = wanted.map((value) => ({ unit: "", fields: field(name), values: [value] }));
    view.data("chosen_store", rows).runAsync();
  };
  const choose = (value) => {
    chosen = value;
    picker.value = methods.includes(value) ? value : "";
    for (const [name, view] of views) mark(name, view);
  };

  const enlivened = new Map();
  const enliven = (figure) => {
    const name = figure.dataset.name;
    if (!enlivened.has(name)) enlivened.set(name, draw(figure, name));
    return enlivened.get(name);
  };
  async function draw(figure, name) {
    const place = made("div");
    const { view } = await vegaEmbed(place, packed[name].spec, { renderer: "svg", actions: false });
    const picture = place.querySelector("svg");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", figure.querySelector("h3").textContent);
    for (const part of picture.children) part.setAttribute("aria-hidden", "true");
    figure.querySelector(".chart").replaceChildren(place);
    figure.dataset.live = "yes";
    if (packed[name].names.length) {
      views.set(name, view);
      mark(name, view);
      view.addDataListener("chosen_store", (_, rows) => {
        const [value = null] = rows.flatMap((row) => row.values);
        if (value !== (stands(name)[0] ?? null)) choose(value);
      });
    }
    return view;
  }
  const seen = new IntersectionObserver(
    (entries) => entries.filter((one) => one.isIntersecting).forEach((one) => { seen.unobserve(one.target); enliven(one.target); }),
    { rootMargin: "300px" },
  );

  const figures = [...document.querySelectorAll("figure[data-name]")];
  const picker = made("select", { id: "stand-out" });
  picker.append(made("option", { value: "", textContent: "none" }), ...methods.map((one) => made("option", { value: one, textContent: one })));
  picker.addEventListener("change", () => choose(picker.value || null));
  if (methods.length) {
    const label = made("label", { textContent: "Let stand out" });
    label.append(picker);
    document.querySelector("nav").append(label);
  }
  for (const figure of figures) {
    const name = figure.dataset.name;
    const picture = (kind) => button(kind.toUpperCase(), `Save the picture as ${name}.${kind}`, async () =>
      save(`${name}.${kind}`, await (await enliven(figure)).toImageURL(kind, 2)));
    const bar = made("div", { className: "bar" });
    bar.append(csv(name), picture("svg"), picture("png"));
    figure.prepend(bar);
    seen.observe(figure);
  }

  // Only what can be pushed sideways is a stop for the keyboard.
  const wide = new ResizeObserver((entries) => {
    for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
  });
  document.querySelectorAll(".chart, .scroll").forEach((one) => wide.observe(one));

  // A dash comes last; a number is what a text begins with.
  const value = (text) => (text === "–" ? null : Number.isNaN(parseFloat(text.replace(/[,≤ ]/g, ""))) ? text : parseFloat(text.replace(/[,≤ ]/g, "")));
  const order = (a, b, up) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return up * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  };
  for (const box of document.querySelectorAll(".table")) {
    const table = box.querySelector("table");
    const [head, body] = [table.tHead.rows[0], table.tBodies[0]];
    const bar = made("div", { className: "bar" });
    bar.append(csv(box.dataset.name));
    if (body.rows.length > 12) {
      const filter = made("input", { type: "search", placeholder: "filter rows" });
      filter.setAttribute("aria-label", "Show rows that hold this text");
      filter.addEventListener("input", () => {
        for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
      });
      bar.append(filter);
    }
    box.prepend(bar);
    for (const [column, cell] of [...head.cells].entries()) {
      const sort = button(cell.textContent, "Sort by this column", () => {
        const up = cell.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const one of head.cells) one.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [value(row.cells[column].textContent), row]);
        body.append(...rows.sort(([a], [b]) => order(a, b, up)).map(([, row]) => row));
      });
      cell.replaceChildren(sort);
    }
  }
  document.documentElement.dataset.ready = performance.now();
})();
