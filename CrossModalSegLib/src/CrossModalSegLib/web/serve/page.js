// Files to the page, keys, and the end of the session; all else is the page's own.
(function () {
  const state = () => window.trame && window.trame.state;
  const tell = (values) => state() && state().update(values);

  function send(files, purpose) {
    if (!files.length) return;
    tell({ error: "" }); // what was said of files before
    const form = new FormData();
    for (const file of files) form.append("file", file, file.name);
    const request = new XMLHttpRequest();
    request.open("POST", `files/${purpose}`);
    request.upload.onprogress = (event) => {
      const percent = event.lengthComputable ? ` ${Math.round((100 * event.loaded) / event.total)} %` : "";
      tell({ loading: event.loaded < event.total ? `Sending${percent}` : "Reading" });
    };
    request.onload = () => {
      // The server says the rest through the page's state, but for requests that it never took.
      if (request.status >= 400) tell({ loading: "", error: request.responseText });
    };
    request.onerror = () => tell({ loading: "", error: "The files could not be sent. Is the program still running?" });
    request.send(form);
  }

  // What cannot be undone is asked for, before the page hears of the click.
  document.addEventListener(
    "click",
    (event) => {
      const asker = event.target.closest("[data-confirm]");
      if (!asker || asker.disabled || !asker.dataset.confirm || window.confirm(asker.dataset.confirm)) return;
      event.stopImmediatePropagation();
      event.preventDefault();
    },
    true
  );
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]");
    if (opener && !opener.disabled) document.getElementById(opener.dataset.open).click();
    const ender = event.target.closest("[data-end]");
    if (ender) fetch("end", { method: "POST" }).then(() => location.reload());
  });
  document.addEventListener("change", (event) => {
    const input = event.target;
    if (!input.matches || !input.matches("input[type=file][data-purpose]")) return;
    send([...input.files], input.dataset.purpose);
    input.value = "";
  });

  // Strokes. The views' own mouse events wait for each picture and skip what lies between, which would cut corners.
  const PIECE_MS = 40;
  let stroke = null;
  function share(event) {
    // Of the picture, which is cut off where another tab has views of another shape.
    const box = (stroke.area.querySelector("img") || stroke.area).getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
  function sendPiece(isLast) {
    const { view, value, size, points, id } = stroke;
    // The next piece begins where this one ended.
    stroke.points = points.slice(-1);
    if (points.length > 1 || isLast || !stroke.isBegun) window.trame.trigger("stroke", [view, value, size, points, isLast]);
    stroke.isBegun = true;
    clearTimeout(id);
    stroke.id = isLast ? null : setTimeout(() => stroke && sendPiece(false), PIECE_MS);
  }
  document.addEventListener(
    "pointerdown",
    (event) => {
      const view = event.target.closest(".view.tool-draw, .view.tool-erase");
      const area = event.target.closest(".remote-controlled-area");
      if (event.button !== 0 || stroke || !view || !area) return;
      const value = view.classList.contains("tool-erase") ? 255 : Number(state().get("active"));
      stroke = { view: view.dataset.view, area, value, size: Number(state().get("brush_mm")), points: [], id: null };
      stroke.points.push(share(event));
      sendPiece(false);
    },
    true
  );
  document.addEventListener(
    "pointermove",
    (event) => {
      if (!stroke) return;
      const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const each of all.length ? all : [event]) stroke.points.push(share(each));
    },
    true
  );
  for (const kind of ["pointerup", "pointercancel"])
    document.addEventListener(
      kind,
      (event) => {
        if (!stroke || (kind === "pointerup" && event.button !== 0)) return;
        if (kind === "pointerup") stroke.points.push(share(event));
        sendPiece(true);
        stroke = null;
      },
      true
    );

  // Another tab may have shown the views in its own size: the one that is used last has its way.
  function tellSizes() {
    const client = window.trame && window.trame.client;
    if (document.hidden || !client || !client.isConnected()) return;
    for (const view of document.querySelectorAll(".view")) {
      const box = view.getBoundingClientRect();
      const size = { w: box.width, h: box.height, p: window.devicePixelRatio };
      client.getConnection().getSession().call("trame.rca.size", [view.dataset.view, "", size]);
    }
  }
  for (const kind of ["focus", "visibilitychange"]) window.addEventListener(kind, tellSizes);

  // After a sleep or a break of the network the work is still there; else the front says what has become of it.
  setInterval(() => {
    if (document.querySelector("[data-lost]")) fetch("./", { cache: "no-store" }).then(() => location.reload(), () => {});
  }, 2000);

  const hasFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  function entries(entry) {
    if (entry.isFile) return new Promise((done, fail) => entry.file((file) => done([file]), fail));
    const reader = entry.createReader();
    const all = [];
    // A reader gives a hundred at a time.
    const more = () =>
      new Promise((done, fail) => reader.readEntries(done, fail)).then((found) => {
        if (!found.length) return Promise.all(all.map(entries)).then((lists) => lists.flat());
        all.push(...found);
        return more();
      });
    return more();
  }
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    const found = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    Promise.all(found.map(entries)).then((lists) => send(lists.flat(), "image"));
  });

  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.target.matches("input:not([type=range])")) return;
    const key = event.key.toLowerCase();
    const flag = key === "y" || (key === "z" && event.shiftKey) ? "can_redo" : key === "z" ? "can_undo" : "";
    const button = flag && document.querySelector(`[data-key="${flag}"]`);
    if (button && !button.disabled) {
      event.preventDefault();
      button.click();
    }
  });
  document.addEventListener("contextmenu", (event) => {
    if (event.target.closest(".view")) event.preventDefault();
  });
})();
