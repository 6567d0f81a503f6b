// A conversation with the model: streamed, shown as Markdown, stopped at will.

import { api } from "./api.js";
import { marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";

const $ = (id) => document.getElementById(id);

const turns = []; // {role, content}, as the API takes them
let stopping = null; // of the answer that is being written

export function startChat() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("question").value.trim();
    if (text && !stopping) ask(text);
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("ask").requestSubmit();
    }
  });
  $("stop").addEventListener("click", () => stopping?.abort());
  $("clear").addEventListener("click", () => {
    stopping?.abort();
    turns.length = 0;
    $("turns").replaceChildren();
    $("question").focus();
  });
}

async function ask(text) {
  $("question").value = "";
  turns.push({ role: "user", content: text });
  addTurn("user").textContent = text;
  const place = addTurn("assistant");
  const answer = { role: "assistant", content: "" };
  const mine = (stopping = new AbortController());
  working(true);
  try {
    for await (const piece of pieces(mine.signal)) {
      answer.content += piece;
      place.innerHTML = DOMPurify.sanitize(marked.parse(answer.content));
      scrollDown();
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      const line = addTurn("failed");
      line.textContent = error.message;
    }
  } finally {
    stopping = null;
    working(false);
    if (answer.content && turns.length) turns.push(answer);
    else turns.pop();
  }
}

async function* pieces(signal) {
  const answer = await api("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ messages: turns, stream: true }),
    signal,
  });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    const piece = chunk.choices[0]?.delta.content;
    if (piece) yield piece;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

function addTurn(kind) {
  const line = document.createElement("li");
  line.className = kind;
  $("turns").append(line);
  scrollDown();
  return line;
}

function scrollDown() {
  $("turns").scrollTop = $("turns").scrollHeight;
}

function working(is) {
  $("send").disabled = is;
  $("stop").disabled = !is;
}
