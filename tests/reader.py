"""What somebody wants to know who sees a study's page for the first time, and in how many steps.

A reader sees what lies whole in the window and acts on nothing else: every click, choice in a list and screen
scrolled is a step. The questions are those of docs/report.md.
"""

import json
from pathlib import Path

import browser

from valley import places
from valley.grid import Cell

READER = """
  const reader = {steps: 0};
  const pause = () => new Promise(done => setTimeout(done, 50));
  reader.sees = element => {
    const box = element.getBoundingClientRect(), whole = box.bottom <= innerHeight || box.height > innerHeight / 2;
    return box.height > 0 && box.top >= 0 && box.top < innerHeight && whole && box.left < innerWidth;
  };
  reader.find = (what, says = "") => [...document.querySelectorAll(what)].find(one => one.textContent.includes(says));
  reader.reach = async element => {
    for (let i = 0; !reader.sees(element) && i < 99; i++) {
      reader.steps += 1;
      const screen = innerHeight - 100, top = element.getBoundingClientRect().top;
      scrollBy(0, top < 0 ? Math.max(-screen, top - 8) : Math.min(screen, top - 8));
      await pause();
    }
    return element;
  };
  reader.press = async (what, says = "") => {
    const element = await reader.reach(reader.find(what, says));
    reader.steps += 1;
    if (element.hash) location.hash = element.hash; else element.click();
    await pause();
  };
  reader.choose = async (select, value) => {
    await reader.reach(select);
    reader.steps += 1;
    select.value = value; select.dispatchEvent(new Event("change", {bubbles: true}));
    await pause();
  };
  // The panel of a model, where it is in view or once the model is chosen.
  reader.panel = async model => {
    const panel = [...document.querySelectorAll(".panel")].find(one => one.dataset.model === model && one.dataset.task === "headline");
    if (!reader.sees(panel.querySelector("p"))) await reader.choose(document.querySelector("select[name=one]"), model);
    await reader.reach(panel.querySelector("p"));
    return panel;
  };
  found.steps = {}; found.read = {};
  reader.ask = async (question, answer) => {
    for (const one of document.querySelectorAll("details[open]")) one.open = false;
    const one = document.querySelector("select[name=one]");
    if (one) { one.value = ""; one.dispatchEvent(new Event("change", {bubbles: true})); }
    scrollTo(0, 0); await pause();
    reader.steps = 0;
    found.read[question] = await answer();
    found.steps[question] = reader.steps;
  };
"""
OF_A_STUDY = """
  await reader.ask("does it recover, and by which size", async () => {
    const panel = await reader.panel(MODEL);
    return [panel.querySelector("h2").innerText, panel.querySelector("p").textContent];
  });
  await reader.ask("between which sizes, surely", async () => {
    await reader.press("nav a", "When does it recover?");
    const row = [...document.querySelectorAll("#recovery ~ .scroll tbody tr")].find(one => one.dataset.model === MODEL);
    return [...(await reader.reach(row)).cells].map(cell => cell.dataset.value);
  });
  await reader.ask("which claims fail, and why", async () => {
    const rows = [...document.querySelectorAll(".claims summary")];
    if (!reader.sees(rows[0])) await reader.press("nav a", "Claims");
    for (const row of rows) await reader.reach(row);
    return rows.map(row => [row.querySelector("strong").textContent, row.querySelector(".verdict").textContent, row.lastChild.textContent]);
  });
  await reader.ask("with what numbers", async () => {
    if (!reader.sees(document.querySelector(".claims summary"))) await reader.press("nav a", "Claims");
    await reader.press(".claims summary");
    return (await reader.reach(document.querySelector(".claims details[open] .part"))).textContent;
  });
  await reader.ask("what did it cost", async () => {
    await reader.press("nav a", "What it cost");
    const said = (await reader.reach(document.querySelector("#cost + p"))).textContent;
    const cells = [...document.querySelector("#cost ~ .scroll").querySelectorAll("tbody tr")].at(-1).cells;
    await reader.reach(cells[0]);
    return [said, [...cells].map(cell => cell.dataset.value)];
  });
  await reader.ask("the dot of a cell", async () => {
    const panel = await reader.panel(MODEL);
    await reader.reach([...panel.querySelectorAll(".multiple a")].find(one => one.getAttribute("href") === PAGE));
    reader.steps += 1;
  });
"""
OF_A_CELL = """
  await reader.ask("a response that went wrong", async () => {
    await reader.press("nav a", "Responses");
    await reader.choose(document.querySelector("select[name=outcome]"), OUTCOME);
    const shown = [...document.querySelectorAll("article")].find(one => !one.hidden);
    await reader.reach(shown);
    return [shown.dataset.outcome, shown.textContent];
  });
  await reader.ask("what did the cell cost", async () => {
    await reader.press("nav a", "What made it");
    return (await reader.reach(document.querySelector("#made ~ details summary"))).textContent;
  });
"""


def asked(file: Path, script: str, width: int, **what: str) -> tuple[dict, dict]:
    """(steps by question, answers by question) of a reader on one page of that width."""
    for name, value in what.items():
        script = script.replace(name.upper(), json.dumps(value))
    found = browser.opened(file, width, READER + script)
    return found["steps"], found["read"]


def of_a_study(file: Path, cell: Cell, width: int) -> tuple[dict, dict]:
    """What is asked on a study's page, up to the dot of a cell."""
    return asked(file, OF_A_STUDY, width, model=cell.model, page=places.page_of(cell))


def of_a_cell(file: Path, outcome: str, width: int) -> tuple[dict, dict]:
    """What is asked on the page of a cell, where its dot leads."""
    return asked(file, OF_A_CELL, width, outcome=outcome)
