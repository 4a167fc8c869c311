// The mixing desk: the film is mute; each voice comes through a gain of its own, all on one clock (Web Audio).
(() => {
  const PIECE_S = 2; // of sound that is fetched at once
  const AHEAD_S = 5; // of sound that is ready before it is due
  const MAX_DRIFT_S = 0.06; // between sound and picture, before the sound is begun anew
  const GLIDE_S = 0.015; // a gain that jumps would click
  const HEADER_BYTES = 4096;

  const gainOf = (row) => {
    const desk = row.closest(".lipsep-desk");
    const solo = desk.querySelector('[data-do="solo"][aria-pressed="true"]');
    const pressed = (what) => row.querySelector(`[data-do="${what}"]`).getAttribute("aria-pressed") === "true";
    const fader = row.querySelector("input[type=range]");
    const off = pressed("mute") || (solo && !pressed("solo")) || fader.value === fader.min;
    return { off, db: Number(fader.value) };
  };

  /** Where the samples of a WAV of 16 bit lie. */
  const readHeader = async (url) => {
    const answer = await fetch(url, { headers: { Range: `bytes=0-${HEADER_BYTES - 1}` } });
    if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
    const view = new DataView(await answer.arrayBuffer());
    const form = {};
    for (let at = 12; at + 8 <= view.byteLength; ) {
      const kind = String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
      const size = view.getUint32(at + 4, true);
      if (kind === "fmt ") {
        form.channels = view.getUint16(at + 10, true);
        form.rate = view.getUint32(at + 12, true);
      } else if (kind === "data") {
        return { ...form, start: at + 8, samples: size / (2 * form.channels) };
      }
      at += 8 + size;
    }
    throw new Error(`${url}: no sound in it`);
  };

  class Desk {
    constructor(player) {
      this.player = player;
      this.picture = player.querySelector("video");
      this.rows = [...player.querySelectorAll(".lipsep-desk > li")];
      this.url = (row) => `${player.dataset.base}/${row.dataset.voice}.wav`;
      this.run = 0; // counts beginnings: what an earlier one still fetches is dropped
      this.sounding = [];
    }

    async open() {
      this.form = await readHeader(this.url(this.rows[0])); // all voices have the same
      this.context = new AudioContext({ sampleRate: this.form.rate }); // pieces then join without a seam
      this.sum = this.context.createGain();
      this.sum.connect(this.context.destination);
      this.gains = this.rows.map(() => {
        const gain = this.context.createGain();
        gain.connect(this.sum);
        return gain;
      });
      this.setGains(0);
    }

    setGains(glide_s = GLIDE_S) {
      this.rows.forEach((row, k) => {
        const { off, db } = gainOf(row);
        const value = off ? 0 : 10 ** (db / 20);
        const { gain } = this.gains[k];
        if (glide_s) gain.setTargetAtTime(value, this.context.currentTime, glide_s);
        else gain.value = value;
      });
    }

    async fetchPiece(row, from, to) {
      const { channels, start, rate } = this.form;
      const width = 2 * channels;
      const range = `bytes=${start + from * width}-${start + to * width - 1}`;
      const answer = await fetch(this.url(row), { headers: { Range: range } });
      if (!answer.ok) throw new Error(`${this.url(row)}: ${answer.status}`);
      const steps = new Int16Array(await answer.arrayBuffer());
      const buffer = this.context.createBuffer(channels, to - from, rate);
      for (let c = 0; c < channels; c++) {
        const samples = buffer.getChannelData(c);
        for (let n = 0; n < samples.length; n++) samples[n] = steps[n * channels + c] / 32768;
      }
      return buffer;
    }

    silence() {
      this.run++;
      for (const source of this.sounding) source.stop();
      this.sounding = [];
      this.zero_s = null;
    }

    /** Sound from where the picture is, until the film stops. */
    async begin() {
      this.silence();
      const run = this.run;
      this.opened ??= this.open();
      await this.opened;
      await this.context.resume();
      const { rate, samples } = this.form;
      const speed = this.picture.playbackRate;
      let from = Math.max(0, Math.round(this.picture.currentTime * rate));
      while (run === this.run && from < samples) {
        const to = Math.min(samples, from + PIECE_S * rate);
        const buffers = await Promise.all(this.rows.map((row) => this.fetchPiece(row, from, to)));
        if (run !== this.run) return;
        // the moment on the audio clock at which the film began, on a whole sample
        this.zero_s ??= Math.round((this.context.currentTime - this.picture.currentTime / speed) * rate) / rate;
        const due_s = this.zero_s + from / rate / speed;
        const late_s = Math.max(0, this.context.currentTime - due_s);
        buffers.forEach((buffer, k) => {
          const source = this.context.createBufferSource();
          source.buffer = buffer;
          source.playbackRate.value = speed;
          source.connect(this.gains[k]);
          source.start(Math.max(due_s, this.context.currentTime), late_s * speed);
          source.onended = () => (this.sounding = this.sounding.filter((other) => other !== source));
          this.sounding.push(source);
        });
        from = to;
        while (run === this.run && this.zero_s + from / rate / speed - this.context.currentTime > AHEAD_S) {
          await new Promise((wake) => setTimeout(wake, 250));
        }
      }
    }

    /** Seconds by which the sound is ahead of the picture; 0 while it does not run. */
    drift() {
      if (this.zero_s === null || this.zero_s === undefined || this.context.state !== "running") return 0;
      const { currentTime, playbackRate } = this.picture;
      return (this.context.currentTime - this.zero_s) * playbackRate - currentTime;
    }

    follow(event) {
      if (event === "timeupdate") {
        const head = `${(100 * this.picture.currentTime) / (this.picture.duration || 1)}%`;
        for (const line of this.player.querySelectorAll(".lipsep-presence u")) line.style.left = head;
        if (Math.abs(this.drift()) <= MAX_DRIFT_S || this.picture.paused) return;
      }
      if (this.picture.paused || this.picture.ended || event === "waiting" || event === "seeking") this.silence();
      else this.begin().catch((error) => this.tell(`The sound cannot be loaded any more (${error.message}): start again.`));
    }

    tell(message) {
      this.picture.pause();
      this.player.querySelector(".lipsep-hint").textContent = message;
    }
  }

  const desks = new WeakMap();
  const deskOf = (player) => {
    if (!desks.has(player)) desks.set(player, (player.desk = new Desk(player)));
    return desks.get(player);
  };

  for (const event of ["playing", "pause", "seeking", "waiting", "ratechange", "timeupdate", "ended"]) {
    document.addEventListener(event, (e) => {
      const player = e.target.tagName === "VIDEO" && e.target.closest(".lipsep-player");
      if (player && (event !== "ratechange" || !e.target.paused)) deskOf(player).follow(event);
    }, true);
  }

  document.addEventListener("volumechange", (e) => {
    if (e.target.closest?.(".lipsep-player")) e.target.muted = true; // its own sound would come on top
  }, true);

  const mixed = (player) => {
    const url = new URL(player.querySelector("a[data-kind=remix]").href);
    url.search = "";
    for (const row of player.querySelectorAll(".lipsep-desk > li")) {
      const { off, db } = gainOf(row);
      row.classList.toggle("off", off);
      row.querySelector("output").textContent = off ? "off" : `${db > 0 ? "+" : ""}${db} dB`;
      if (off || db) url.searchParams.set(row.dataset.voice, off ? "off" : db);
    }
    player.querySelector("a[data-kind=remix]").href = url;
    const desk = deskOf(player);
    if (desk.gains) desk.setGains();
  };

  document.addEventListener("click", (e) => {
    const player = e.target.closest(".lipsep-player");
    if (!player) return;
    const button = e.target.closest(".lipsep-fader button");
    if (button) {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      mixed(player);
      return;
    }
    const bar = e.target.closest(".lipsep-presence");
    const picture = player.querySelector("video");
    if (!bar || !picture.duration) return;
    const box = bar.getBoundingClientRect();
    picture.currentTime = ((e.clientX - box.left) / box.width) * picture.duration;
  });

  // names go onto the files: into the links, which are looked at when they are clicked
  const names = {};
  const show = (person) => {
    const name = names[person];
    for (const other of document.querySelectorAll(`.lipsep-name[data-person="${person}"]`)) {
      if (other.value !== name) other.value = name;
    }
    for (const link of document.querySelectorAll(`a[data-person="${person}"]`)) {
      link.download = `${name || `speaker_${person}`}.${link.dataset.kind}`;
    }
    const all = document.querySelector("a[data-kind=zip]");
    if (all) {
      const url = new URL(all.href);
      url.searchParams.set(person, name);
      all.href = url;
    }
  };

  document.addEventListener("input", (e) => {
    const player = e.target.closest(".lipsep-player");
    if (player && e.target.type === "range") mixed(player);
    if (!e.target.matches(".lipsep-name")) return;
    names[e.target.dataset.person] = e.target.value;
    show(e.target.dataset.person);
  });

  // a double click on a fader sets it back
  document.addEventListener("dblclick", (e) => {
    const player = e.target.type === "range" && e.target.closest(".lipsep-player");
    if (!player) return;
    e.target.value = 0;
    mixed(player);
  });

  // names that were given while the voices were separated; they are of one film
  new MutationObserver((changes) => {
    const added = changes.flatMap((change) => [...change.addedNodes]).filter((node) => node.nodeType === 1);
    const shows = (what) => added.some((node) => node.matches(what) || node.querySelector(what));
    if (shows(".lipsep-people")) for (const person of Object.keys(names)) delete names[person];
    if (shows(".lipsep-player")) Object.keys(names).forEach(show);
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
