// The server's public endpoints. The API key stays in this tab, and goes into a header only.

const form = document.getElementById("key-form");
let listener = () => {};
let needed = false;

export function onKeyNeeded(heard) {
  listener = heard;
}

export async function api(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if ((answer.status === 401) !== needed) {
    needed = !needed;
    listener(needed);
  }
  return answer;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", document.getElementById("key").value.trim());
});
