// Listening in sync: every voice is an <audio> that follows the picture; one click makes another of them heard.
(() => {
  const MAX_DRIFT_S = 0.08;

  const parts = (player) => ({
    picture: player.querySelector("video"),
    voices: [...player.querySelectorAll("audio")],
  });

  const follow = (player) => {
    const { picture, voices } = parts(player);
    for (const voice of voices) {
      voice.muted = voice.dataset.voice !== player.dataset.heard;
      if (Math.abs(voice.currentTime - picture.currentTime) > MAX_DRIFT_S) voice.currentTime = picture.currentTime;
      if (picture.paused || picture.ended) voice.pause();
      else if (voice.paused && !voice.ended) voice.play().catch(() => {});
    }
  };

  for (const event of ["play", "pause", "seeked", "timeupdate", "ended"]) {
    document.addEventListener(event, (e) => {
      const player = e.target.tagName === "VIDEO" && e.target.closest(".lipsep-player");
      if (player) follow(player);
    }, true);
  }

  document.addEventListener("change", (e) => {
    const player = e.target.name === "lipsep-heard" && e.target.closest(".lipsep-player");
    if (!player) return;
    player.dataset.heard = e.target.value;
    follow(player);
  });

  document.addEventListener("click", (e) => {
    const bar = e.target.closest(".lipsep-presence");
    const picture = bar && bar.closest(".lipsep-player")?.querySelector("video");
    if (!picture || !picture.duration) return;
    const box = bar.getBoundingClientRect();
    picture.currentTime = ((e.clientX - box.left) / box.width) * picture.duration;
  });

  // names go onto the files: into the links, which are looked at when they are clicked
  document.addEventListener("input", (e) => {
    if (!e.target.matches(".lipsep-name")) return;
    const page = e.target.closest(".lipsep-people, .lipsep-player").parentElement.closest(".gradio-container") || document;
    for (const other of page.querySelectorAll(`.lipsep-name[data-person="${e.target.dataset.person}"]`)) {
      other.value = e.target.value;
    }
    for (const label of page.querySelectorAll(`[data-named="${e.target.dataset.person}"]`)) {
      label.textContent = e.target.value || `person ${e.target.dataset.person}`;
    }
    for (const link of page.querySelectorAll(`a[data-person="${e.target.dataset.person}"]`)) {
      link.download = `${e.target.value || "speaker_" + e.target.dataset.person}.${link.dataset.kind}`;
    }
    const all = page.querySelector("a[data-kind=zip]");
    if (all) {
      const url = new URL(all.href);
      url.searchParams.set(e.target.dataset.person, e.target.value);
      all.href = url;
    }
  });
})();
