// The page at `/`: sends an image to the service and shows its answer. No library, nothing from elsewhere.
// Class names, file names and messages are other people's text: they become text nodes, never HTML.
"use strict";

const FIRST = 10; // bars shown before "Show all"
const FEW = 30; // labels that are shown without being asked for
const KEY = "serving-key"; // in sessionStorage: gone when the tab is closed

const element = (id) => document.getElementById(id);
let file = null; // the one shown, sent again once a key is given
let asking = null; // AbortController of the request in progress
let known = null; // version and run of the model whose description is shown

class Refused extends Error {}

// POST to the service; returns its JSON. Throws Refused with the service's own line.
async function ask(path, options) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, method: "POST", headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(`The service cannot be reached (${error.message}).`);
  }
  const text = await response.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's error page, for example.
  }
  if (response.status === 401) askForKey();
  if (!response.ok || body === null) {
    throw new Refused(body?.error ?? `The service answered ${response.status} ${response.statusText}.`);
  }
  return body;
}

function askForKey() {
  element("key-form").hidden = false;
  element("key").focus();
}

function show(id, text) {
  element(id).textContent = text ?? "";
  element(id).hidden = !text;
}

function make(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function describe(list, entries) {
  const given = entries.filter(([, value]) => value !== null && value !== undefined);
  list.replaceChildren(...given.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

const modelOf = (answer) => `${answer.model_version} ${answer.run_id}`;

function percent(probability) {
  if (probability > 0 && probability < 0.0005) return "< 0.1 %";
  return `${(100 * probability).toFixed(1)} %`;
}

async function showModel() {
  let info;
  try {
    info = await ask("get_model_info", {});
  } catch (error) {
    show("problem", error.message);
    return;
  }
  known = modelOf(info);
  const loaded = info.loaded_at === null ? null : new Date(1000 * info.loaded_at).toLocaleString();
  show("problem", info.classes === null ? `No model is loaded yet: ${info.problem ?? "it is being fetched"}` : info.problem);
  describe(element("model"), [
    ["Name", info.registered_model],
    ["Version", info.model_version],
    ["Run ID", info.run_id],
    ["Follows", info.follows],
    ["Architecture", info.architecture],
    ["Input", info.input && info.input.join(" × ")],
    ["Loaded", loaded],
  ]);
  const labels = info.classes ?? [];
  if (element("labels").hidden) element("labels").open = labels.length <= FEW;
  element("labels").hidden = !labels.length;
  element("labels-title").textContent = `The ${labels.length.toLocaleString("en")} labels it knows`;
  element("label-list").replaceChildren(...labels.map((label) => make("li", label)));
}

function bar([name, probability]) {
  const item = document.createElement("li");
  const filled = make("span", "", "bar");
  filled.style.width = `${100 * probability}%`;
  const label = make("span", name, "name");
  label.dir = "auto";
  item.append(filled, label, make("span", percent(probability), "value"));
  return item;
}

function showAnswer(answer) {
  const ordered = Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]);
  const all = element("all");
  const bars = (whole) => {
    element("bars").replaceChildren(...ordered.slice(0, whole ? undefined : FIRST).map(bar));
    all.textContent = whole ? `Show the first ${FIRST}` : `Show all ${ordered.length.toLocaleString("en")}`;
    all.setAttribute("aria-expanded", String(whole));
  };
  bars(false);
  all.hidden = ordered.length <= FIRST;
  all.onclick = () => bars(all.getAttribute("aria-expanded") === "false");
  element("status").textContent = `${answer.class}, ${percent(answer.probabilities[answer.class])}`;
  describe(element("origin"), [
    ["Model version", answer.model_version],
    ["Run ID", answer.run_id],
  ]);
  element("answer").hidden = false;
  if (modelOf(answer) !== known) showModel();
}

function showPicture() {
  const picture = element("picture");
  URL.revokeObjectURL(picture.src);
  picture.hidden = false;
  picture.alt = "The image sent";
  picture.onerror = () => {
    picture.hidden = true; // a HEIC photo, for example: the service reads more formats than a browser
    element("caption").textContent += ": this browser cannot show it";
  };
  picture.src = URL.createObjectURL(file);
  element("caption").textContent = file.name;
}

async function classify(chosen) {
  file = chosen;
  asking?.abort();
  const mine = (asking = new AbortController());
  show("error", "");
  showPicture();
  element("result").hidden = false;
  element("answer").hidden = false;
  element("status").textContent = "Waiting for the answer …";
  for (const id of ["bars", "origin"]) element(id).replaceChildren();
  element("all").hidden = true;
  // Only a kind of image is passed on: the browser goes by the file's name, the service by its content.
  const kind = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  try {
    const answer = await ask("predict_image", { body: file, headers: { "Content-Type": kind }, signal: mine.signal });
    if (mine === asking) showAnswer(answer);
  } catch (error) {
    if (mine !== asking) return; // another image has been chosen since
    element("status").textContent = "";
    element("answer").hidden = true;
    show("error", error.message);
  }
}

function take(files) {
  const [first] = files ?? [];
  if (first) classify(first);
  else show("error", "That was no file. Save the image, then drop or choose the file.");
}

element("file").addEventListener("change", (event) => {
  if (event.target.files.length) take(event.target.files);
});
element("file").addEventListener("click", (event) => {
  event.target.value = ""; // so that the same file can be chosen again
});

// Anywhere on the page: a file that misses the field would otherwise replace the page.
addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  element("file").value = ""; // its name would stay beside the new image
  take(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, element("key").value.trim());
  element("key").value = "";
  element("key-form").hidden = true;
  showModel();
  if (file) classify(file);
});

showModel();
