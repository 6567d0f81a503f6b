// What the page shows: the server's state once a second, and a chat.

import { api, onKeyNeeded } from "./api.js";
import { startChat } from "./chat.js";
import { drawGraph } from "./graph.js";
import { drawTables } from "./tables.js";

const EVERY = 1000; // milliseconds
const HISTORY = 120; // readings of tokens per second

const $ = (id) => document.getElementById(id);
const rates = [];

function startTheme() {
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    $("theme").textContent = theme === "dark" ? "Light" : "Dark";
  };
  set(localStorage.getItem("theme") ?? preferred);
  $("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", theme);
    set(theme);
  });
}

function startJoining() {
  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("join-line").textContent);
      $("copy").textContent = "Copied";
    } catch { // only pages of this machine, or over TLS, may use the clipboard: select it instead
      getSelection().selectAllChildren($("join-line"));
      $("copy").textContent = "Selected";
    }
    setTimeout(() => { $("copy").textContent = "Copy"; }, 2000);
  });
}

function showStatus(text, kind) {
  if ($("status-text").textContent !== text) $("status-text").textContent = text;
  $("status").className = kind;
}

function showHistory(rate) {
  rates.push(rate);
  if (rates.length > HISTORY) rates.shift();
  const { clientWidth: width, clientHeight: height } = $("history");
  const most = Math.max(...rates, 1);
  const points = rates.map((each, i) =>
    `${(width * i) / (HISTORY - 1)},${height - 2 - ((height - 4) * each) / most}`);
  $("history").innerHTML = `<polyline points="${points.join(" ")}"/>`;
}

function show(state) {
  $("model").textContent = state.model;
  showStatus(state.status, state.ready ? "serving" : "");
  showHistory(state.tokens_per_second);
  drawGraph($("graph"), state);
  drawTables(state);
  $("join").hidden = !state.join;
  if ($("join-line").textContent !== state.join) $("join-line").textContent = state.join;
}

async function look() {
  try {
    const answer = await api("/api/state");
    if (answer.ok) show(await answer.json());
    else if (answer.status !== 401) showStatus(`the server answers ${answer.status}`, "gone");
  } catch {
    showStatus("the server does not answer", "gone");
  }
  setTimeout(look, EVERY);
}

startTheme();
startJoining();
startChat();
onKeyNeeded((needed) => {
  $("key-form").hidden = !needed;
  document.querySelector("main").hidden = needed;
  if (needed) showStatus("an API key is needed", "");
});
look();
