() => {
  // The word that sounds is marked; a press on a word plays from there.
  const sound = () => document.querySelector("#sound audio");
  const words = () => document.querySelectorAll("#result span[data-start]");
  document.addEventListener("click", (event) => {
    const word = event.target.closest("#result span[data-start]"), audio = sound();
    if (!word || !audio) return;
    audio.currentTime = Number(word.dataset.start);
    audio.play();
  });
  const follow = () => {
    const audio = sound(), now = audio && !audio.paused ? audio.currentTime : -1;
    for (const word of words()) {
      word.classList.toggle("now", now >= word.dataset.start && now < word.dataset.end);
    }
    requestAnimationFrame(follow);
  };
  follow();
}
