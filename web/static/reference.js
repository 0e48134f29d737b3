// Lets a reader of the reference try calls. The page is whole without it.
//
// The key is read from its field when a call is made, and kept nowhere else.
"use strict";

(() => {
  const key = document.getElementById("key");

  // How a call's address is made of its form.
  const addressOf = (form) => {
    let path = form.dataset.path;
    const query = new URLSearchParams();
    let free = "";
    for (const field of form.querySelectorAll("input[data-in]")) {
      const text = field.value.trim();
      if (field.dataset.in === "path") {
        const parts = "several" in field.dataset ? text.split("/") : [text];
        path = path.replace("{" + field.name + "}", () => parts.map(encodeURIComponent).join("/"));
      } else if (field.dataset.in === "query" && text !== "") {
        if (field.name === "query") free = text.replace(/^\?/, "");
        else query.set(field.name, text);
      }
    }
    const all = [query.toString(), free].filter((part) => part !== "").join("&");
    return path + (all === "" ? "" : "?" + all);
  };

  const headersOf = (form, body) => {
    const headers = { Authorization: "Bearer " + key.value.trim() };
    for (const field of form.querySelectorAll("input[data-in=header]")) {
      if (field.value.trim() !== "") headers[field.name] = field.value.trim();
    }
    if (body !== undefined) headers["Content-Type"] = "application/json";
    return headers;
  };

  const pretty = (text) => {
    try {
      return JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      return text; // not JSON: as it is
    }
  };

  // show writes text alone: nothing of an answer becomes markup.
  const show = (output, heading, text) => {
    const title = document.createElement("p");
    title.className = "example-name";
    title.textContent = heading;
    output.replaceChildren(title);
    if (text === "") return;
    const body = document.createElement("pre");
    body.tabIndex = 0;
    body.textContent = text;
    output.append(body);
  };

  const send = async (form) => {
    const output = form.querySelector("output");
    const button = form.querySelector("button");
    if (button.ariaDisabled === "true") return; // one call at a time
    if (key.value.trim() === "") {
      show(output, "Give an API key first.", "");
      key.focus();
      return;
    }
    const method = form.dataset.method;
    const address = addressOf(form);
    if (method === "DELETE" && !window.confirm("Really " + method + " " + address + "?")) return;
    const body = form.querySelector("textarea")?.value;
    button.ariaDisabled = "true"; // not disabled, which would take the focus away
    show(output, "Sent. Waiting for the answer …", "");
    try {
      const answer = await fetch(address, {
        method, body, headers: headersOf(form, body), credentials: "omit", cache: "no-store", redirect: "error",
      });
      const text = await answer.text();
      const wait = answer.headers.get("Retry-After");
      show(output, method + " " + address + " answered " + answer.status + (wait ? ", Retry-After " + wait : ""), pretty(text));
    } catch {
      show(output, "No answer came back.", "");
    }
    button.ariaDisabled = null;
  };

  for (const part of document.querySelectorAll(".try")) part.hidden = false;
  for (const form of document.querySelectorAll("form[data-path]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(form);
    });
  }
  document.getElementById("key-form").addEventListener("submit", (event) => event.preventDefault());
  if (window.matchMedia("(max-width: 60rem)").matches) document.querySelector(".contents").open = false;
})();
