// The page of `etam-edge live --serve` and `etam-edge prompt`: pictures and figures in, prompts out, over one WebSocket.

const byId = (id) => document.getElementById(id);
const view = byId("view");
const marks = byId("marks");
const FILL = 0.42;
const DRAG = 6;            // CSS pixels: a shorter movement is a click
const RETRY = [500, 1000, 2000, 5000];

let socket = null;
let attempts = 0;
let hello = { mode: "live", maxObjects: 0 };
let picture = null;        // the picture that is shown: header, labels
let newest = 0;            // number of the newest snapshot that was shown on this connection
let objects = [];          // the newest objects, by the status or the picture
let status = null;
let frozen = false;
let correcting = null;     // id of the object that all clicks belong to
let takeAway = false;
let drag = null;           // {x0, y0, x1, y1} in CSS pixels of the view
let hover = null;          // id of the object under the pointer
let pending = [];          // places that were clicked and not answered yet
let awaited = null;        // number of the snapshot that answers a command of a frozen page
let toastTimer = 0;

// --- connection ---

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}${location.pathname.replace(/[^/]*$/, "")}socket`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { attempts = 0; newest = 0; frozen = false; showFreeze(); showState(); };
  socket.onmessage = (event) => (typeof event.data === "string" ? receive(JSON.parse(event.data)) : receivePicture(event.data));
  socket.onclose = () => {
    pending = [];
    showState();
    setTimeout(connect, RETRY[Math.min(attempts++, RETRY.length - 1)]);
  };
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) {
    socket.send(JSON.stringify(message));
    return true;
  }
  toast("The connection to the tracker is lost; it is tried again.", true);
  return false;
}

function receive(message) {
  if (message.type === "hello") {
    hello = message;
    byId("source").textContent = `${message.source} · ${message.model}`;
    document.title = `${message.source} · etam-edge`;
    const controlled = message.mode === "controlled";
    byId("freeze").hidden = controlled;
    for (const id of ["play", "step"]) byId(id).hidden = !controlled;
    byId("finish").hidden = !(controlled && message.saves);
  } else if (message.type === "status") {
    status = message;
    // The answer to a click on an older picture is newer than the frame that the state was reported with.
    if (message.snapshot >= newest) setObjects(message.objects);
    showStatus();
  } else if (message.type === "answer") {
    pending.shift();
    if (message.error) toast(message.error, true);
    else awaited = message.snapshot;
    drawMarks();
  }
}

async function receivePicture(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const start = 4 + length;
  if (frozen && header.snapshot !== awaited) return;
  const [image, labels] = await Promise.all([
    createImageBitmap(new Blob([new Uint8Array(data, start, header.image)], { type: "image/jpeg" })),
    inflate(new Uint8Array(data, start + header.image, header.labels)),
  ]);
  // Decoding takes a different time for each picture: an older one does not replace a newer one.
  if (header.snapshot < newest || (frozen && header.snapshot !== awaited)) return;
  newest = header.snapshot;
  picture = { header, image, labels };
  setObjects(header.objects);
  draw();
  byId("waiting").hidden = true;
  showPosition();
  send({ type: "ack", snapshot: header.snapshot });
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// --- the picture ---

const layer = document.createElement("canvas");

function draw() {
  if (!picture) return;
  const { header, image, labels } = picture;
  const [width, height] = header.view;
  if (view.width !== width || view.height !== height) {
    for (const canvas of [view, layer]) Object.assign(canvas, { width, height });
    // As wide as the column, and never higher than the window has room for.
    byId("frame").style.width = `min(100%, calc((100vh - 11.5rem) * ${width / height}))`;
  }
  const context = view.getContext("2d");
  context.drawImage(image, 0, 0);
  const known = new Set(objects.map((object) => object.id));
  const tones = header.objects.map((object) => (known.has(object.id) ? bright(object.colour) : null));
  const over = layer.getContext("2d");
  const pixels = over.createImageData(width, height);
  const out = pixels.data;
  const sums = header.objects.map(() => [0, 0, 0]);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const label = labels[at];
      if (!label || !tones[label - 1]) continue;
      const sum = sums[label - 1];
      sum[0] += x; sum[1] += y; sum[2]++;
      const edge = x === 0 || y === 0 || x === width - 1 || y === height - 1 || labels[at - 1] !== label
        || labels[at + 1] !== label || labels[at - width] !== label || labels[at + width] !== label;
      const tone = tones[label - 1];
      const id = header.objects[label - 1].id;
      const fill = id === hover || id === correcting ? FILL + 0.15 : FILL;
      out[4 * at] = tone[0]; out[4 * at + 1] = tone[1]; out[4 * at + 2] = tone[2];
      out[4 * at + 3] = edge ? 255 : 255 * fill;
    }
  }
  over.putImageData(pixels, 0, 0);
  context.drawImage(layer, 0, 0);
  picture.centres = {};
  header.objects.forEach((object, place) => {
    const [x, y, count] = sums[place];
    if (count) {
      picture.centres[object.id] = [x / count * header.width / width, y / count * header.height / height, count];
      if (tones[place]) tag(context, object, x / count, y / count, tones[place], width);
    }
  });
  showCentres();
  view.dataset.snapshot = header.snapshot;
  view.dataset.index = header.index;
  drawMarks();
}

// Where the masks are, in pixels of the frame, for programs that drive the page.
function showCentres() {
  for (const row of byId("objects").children) {
    row.dataset.centre = JSON.stringify((picture && picture.centres && picture.centres[row.dataset.id]) ?? null);
  }
}

function tag(context, object, x, y, tone, width) {
  const size = Math.max(11, width / 55);
  const text = object.label || String(object.id);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const wide = context.measureText(text).width + size;
  const left = Math.min(Math.max(0, x - wide / 2), width - wide);
  const top = Math.max(0, y - size * 0.75);
  context.fillStyle = "rgb(10 14 18 / 78%)";
  context.beginPath();
  context.roundRect(left, top, wide, size * 1.5, size * 0.4);
  context.fill();
  context.fillStyle = `rgb(${tone})`;
  context.fillText(text, left + size / 2, top + size * 1.12);
}

// The palette of the written masks has dark tones; on the page they are as light as their hue allows.
function bright(colour) {
  const most = Math.max(...colour, 1);
  return colour.map((channel) => Math.round(channel / most * 190 + 65));
}

// Boxes that are drawn and clicks that wait for an answer, in CSS pixels above the picture.
function drawMarks() {
  const { clientWidth: width, clientHeight: height } = view;
  const scale = devicePixelRatio || 1;
  Object.assign(marks, { width: width * scale, height: height * scale });
  const context = marks.getContext("2d");
  context.scale(scale, scale);
  if (drag && drag.moved) {
    context.setLineDash([6, 4]);
    context.lineWidth = 2;
    context.strokeStyle = "#fff";
    context.strokeRect(Math.min(drag.x0, drag.x1), Math.min(drag.y0, drag.y1), Math.abs(drag.x1 - drag.x0), Math.abs(drag.y1 - drag.y0));
    context.setLineDash([]);
  }
  for (const { x, y, positive } of pending) {
    context.beginPath();
    context.arc(x * width, y * height, 7, 0, 2 * Math.PI);
    context.lineWidth = 3;
    context.strokeStyle = "rgb(0 0 0 / 60%)";
    context.stroke();
    context.lineWidth = 2;
    context.strokeStyle = positive ? "#3ecf9b" : "#ef6a6a";
    context.stroke();
  }
}

// --- clicks and boxes ---

function place(event) {
  const box = view.getBoundingClientRect();
  const clip = (value, most) => Math.min(Math.max(value, 0), most);
  return { x: clip(event.clientX - box.left, box.width), y: clip(event.clientY - box.top, box.height), box };
}

function toFrame(x, y, box) {
  const { width, height } = picture.header;
  return [Math.min(x / box.width * width, width - 0.01), Math.min(y / box.height * height, height - 0.01)];
}

function objectAt(x, y, box) {
  if (!picture) return null;
  const [width, height] = picture.header.view;
  const column = Math.min(Math.floor(x / box.width * width), width - 1);
  const row = Math.min(Math.floor(y / box.height * height), height - 1);
  const object = picture.header.objects[picture.labels[row * width + column] - 1];
  return object && objects.some((one) => one.id === object.id) ? object.id : null;
}

view.addEventListener("pointerdown", (event) => {
  if (!picture || event.button !== 0) return;
  view.setPointerCapture(event.pointerId);
  const { x, y } = place(event);
  drag = { x0: x, y0: y, x1: x, y1: y, moved: false };
});

view.addEventListener("pointermove", (event) => {
  const { x, y, box } = place(event);
  if (drag) {
    Object.assign(drag, { x1: x, y1: y });
    drag.moved = drag.moved || Math.hypot(x - drag.x0, y - drag.y0) > DRAG;
    drawMarks();
    return;
  }
  const id = objectAt(x, y, box);
  if (id !== hover) { hover = id; draw(); }
});

view.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const { x, y, box } = place(event);
  const { x0, y0, moved } = drag;
  drag = null;
  if (!picture) return;
  if (moved) dragged(x0, y0, x, y, box);
  else clicked(x, y, box, event.shiftKey || takeAway);
  drawMarks();
});
view.addEventListener("pointercancel", () => { drag = null; drawMarks(); });
view.addEventListener("pointerleave", () => { if (hover !== null) { hover = null; draw(); } });

function clicked(x, y, box, negative) {
  let target = correcting ?? objectAt(x, y, box);
  if (negative && target === null) {
    if (objects.length !== 1) {
      toast(objects.length ? "Choose the object in the list first: Correct." : "There is no object to take away from.", true);
      return;
    }
    target = objects[0].id;
  }
  prompt(target, { points: [toFrame(x, y, box)], labels: [negative ? 0 : 1] }, { x: x / box.width, y: y / box.height, positive: !negative });
}

function dragged(x0, y0, x1, y1, box) {
  if (Math.min(Math.abs(x1 - x0), Math.abs(y1 - y0)) < 3) return;
  const [left, top] = toFrame(Math.min(x0, x1), Math.min(y0, y1), box);
  const [right, bottom] = toFrame(Math.max(x0, x1), Math.max(y0, y1), box);
  prompt(correcting, { box: [left, top, right, bottom] }, { x: (x0 + x1) / 2 / box.width, y: (y0 + y1) / 2 / box.height, positive: true });
}

function prompt(object, given, mark) {
  if (send({ type: "prompt", snapshot: picture.header.snapshot, object, ...given })) pending.push(mark);
}

function command(message) {
  if (send(message)) pending.push({ x: -1, y: -1, positive: true });
}

// --- the list of objects ---

function setObjects(list) {
  objects = list;
  if (correcting !== null && !list.some((object) => object.id === correcting)) correct(null);
  const rows = byId("objects");
  for (const row of [...rows.children]) {
    if (!list.some((object) => String(object.id) === row.dataset.id)) row.remove();
  }
  for (const object of list) {
    const row = [...rows.children].find((one) => one.dataset.id === String(object.id)) ?? addRow(object);
    row.dataset.visible = object.visible;
    row.classList.toggle("correcting", object.id === correcting);
    row.querySelector(".score").textContent = object.score.toFixed(1);
    row.querySelector(".sight").textContent = object.visible ? "visible" : "not visible";
    const name = row.querySelector("input");
    if (document.activeElement !== name) name.value = object.label;
  }
  byId("none").hidden = list.length > 0;
  byId("count").textContent = list.length ? `${list.length} of at most ${hello.maxObjects}` : "";
  byId("reset").disabled = !list.length;
  showCentres();
}

function addRow(object) {
  const row = document.createElement("li");
  row.dataset.id = object.id;
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = `rgb(${bright(object.colour)})`;
  const name = document.createElement("input");
  Object.assign(name, { placeholder: `object ${object.id}`, maxLength: 64, spellcheck: false, ariaLabel: `Name of object ${object.id}` });
  name.addEventListener("change", () => command({ type: "label", object: object.id, label: name.value }));
  name.addEventListener("keydown", (event) => { if (event.key === "Enter") name.blur(); });
  const score = document.createElement("span");
  score.className = "score";
  score.title = "Object score, a logit: above 0 the object is visible";
  const actions = document.createElement("span");
  actions.className = "actions";
  actions.append(
    makeButton("Correct", "All clicks belong to this object until you are done", () => correct(correcting === object.id ? null : object.id)),
    makeButton("×", `Remove object ${object.id}`, () => command({ type: "remove", object: object.id })),
  );
  const sight = document.createElement("span");
  sight.className = "sight";
  row.append(swatch, name, score, actions, sight);
  byId("objects").append(row);
  return row;
}

function makeButton(text, title, action) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: text, title, ariaLabel: title });
  button.addEventListener("click", action);
  return button;
}

function correct(id) {
  correcting = id;
  const object = objects.find((one) => one.id === id);
  byId("mode").classList.toggle("correct", id !== null);
  byId("mode-text").textContent = object ? `Correcting ${object.label || `object ${id}`}: clicks belong to it` : "Click adds an object";
  byId("done").hidden = id === null;
  for (const row of byId("objects").children) row.classList.toggle("correcting", row.dataset.id === String(id));
  draw();
}

// --- tools ---

function setTakeAway(on) {
  takeAway = on;
  byId("take-away").setAttribute("aria-pressed", on);
}

function setFrozen(on) {
  if (hello.mode !== "live" || !picture || !send({ type: "freeze", on })) return;
  frozen = on;
  awaited = null;
  showFreeze();
}

function showFreeze() {
  byId("freeze").setAttribute("aria-pressed", frozen);
  byId("freeze").textContent = frozen ? "Go on" : "Freeze";
  byId("frame").classList.toggle("frozen", frozen);
  showPosition();
}

const togglePlay = () => command({ type: "play", on: !(status && status.playing) });
const step = () => command({ type: "step" });
byId("take-away").addEventListener("click", () => setTakeAway(!takeAway));
byId("freeze").addEventListener("click", () => setFrozen(!frozen));
byId("done").addEventListener("click", () => correct(null));
byId("play").addEventListener("click", togglePlay);
byId("step").addEventListener("click", step);
byId("finish").addEventListener("click", () => command({ type: "finish" }));
byId("reset").addEventListener("click", () => {
  if (confirm("Remove all objects and their prompts?")) command({ type: "reset" });
});
addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof HTMLButtonElement && event.key === " ") return;
  const actions = { Escape: () => { correct(null); setTakeAway(false); } };
  if (hello.mode === "controlled") Object.assign(actions, { " ": togglePlay, ".": step });
  else actions.f = () => setFrozen(!frozen);
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
});

// --- state and plots ---

function showState() {
  const pill = byId("state");
  const [text, kind] = !socket || socket.readyState !== WebSocket.OPEN ? ["not connected", "bad"]
    : status && status.fault ? ["source lost", "warn"]
      : status && status.ended ? ["source ended", "warn"]
        : frozen ? ["frozen", "warn"]
          : hello.mode === "controlled" && status && !status.playing ? ["paused", "warn"] : ["tracking", "good"];
  pill.textContent = text;
  pill.className = `pill ${kind}`;
  const banner = byId("banner");
  const fault = status && status.fault && socket && socket.readyState === WebSocket.OPEN ? `${status.fault}. It is opened again.` : "";
  banner.hidden = !fault;
  banner.textContent = fault;
}

function showPosition() {
  const header = picture && picture.header;
  byId("position").textContent = header ? `frame ${header.index} · ${header.width} × ${header.height}` : "";
  showState();
}

function showStatus() {
  byId("play").textContent = status.playing ? "Pause" : "Play";
  byId("play").disabled = byId("step").disabled = status.ended;
  byId("save").classList.toggle("off", !status.prompts);
  const share = status.frames + status.skipped ? 100 * status.skipped / (status.frames + status.skipped) : 0;
  const middle = (values) => (values.p50 === null ? "–" : `${values.p50.toFixed(0)} / ${values.p95.toFixed(0)} / ${values.p99.toFixed(0)} ms`);
  byId("figures").textContent = `${status.frames} ${status.frames === 1 ? "frame" : "frames"} in ${status.seconds.toFixed(0)} s. Age ${middle(status.age)}, frame time `
    + `${middle(status.frameTime)} (p50 / p95 / p99). ${status.skipped} skipped (${share.toFixed(1)} %).`
    + (status.connections > 1 ? ` The source was opened ${status.connections} times.` : "");
  // Columns of a second: frames, skipped, age, worst age, frame time, worst frame time.
  const last = status.history.at(-1);
  const shown = (value) => (value == null ? "–" : `${value.toFixed(1)} ms`);
  byId("age-now").value = last ? shown(last[2]) : "";
  byId("time-now").value = last ? shown(last[4]) : "";
  byId("skipped-now").value = last ? `${last[1]} of ${last[0] + last[1]}` : "";
  plot(byId("age-plot"), status.history.map((one) => one[2]), status.history.map((one) => one[3]), " ms");
  plot(byId("time-plot"), status.history.map((one) => one[4]), status.history.map((one) => one[5]), " ms");
  plot(byId("skipped-plot"), status.history.map((one) => one[1]), null, " /s");
  showState();
}

// A line of medians with the worst values as an area behind it, or bars where there are no worst values. Newest right.
function plot(canvas, values, worst, unit) {
  const scale = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  Object.assign(canvas, { width: width * scale, height: height * scale });
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const most = nice(Math.max(...(worst ?? values).filter((value) => value != null), worst ? 1 : 5));
  const step = width / 120;
  const x = (place) => width - (values.length - place - 0.5) * step;
  const y = (value) => height - 1 - (height - 4) * value / most;
  context.strokeStyle = "#2b3541";
  for (const share of [0.5, 1]) {
    context.beginPath();
    context.moveTo(0, y(most * share));
    context.lineTo(width, y(most * share));
    context.stroke();
  }
  context.fillStyle = worst ? "rgb(62 207 155 / 22%)" : "#f2b84b";
  (worst ?? values).forEach((value, place) => {
    if (value) context.fillRect(x(place) - step / 2, y(value), Math.max(step - 0.5, 1), height - y(value));
  });
  if (worst) {
    context.strokeStyle = "#3ecf9b";
    context.lineWidth = 1.5;
    context.beginPath();
    let pen = false;
    values.forEach((value, place) => {
      if (value == null) { pen = false; return; }
      if (pen) context.lineTo(x(place), y(value));
      else context.moveTo(x(place), y(value));
      pen = true;
    });
    context.stroke();
  }
  context.fillStyle = "#93a1b0";
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "top";
  context.fillText(`${most}${unit}`, 2, 3);
}

// The next number of the form 1, 2 or 5 times a power of ten.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return Number((power * [1, 2, 5, 10].find((factor) => factor * power >= value)).toPrecision(1));
}

function toast(text, bad = false) {
  const box = byId("toast");
  box.textContent = text;
  box.className = bad ? "bad" : "";
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, 5000);
}

addEventListener("resize", () => { drawMarks(); if (status) showStatus(); });
correct(null);
connect();
