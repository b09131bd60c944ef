"""The page: what is shown where, and what happens on which click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verbspace.uses.app.clips import Clips
from verbspace.uses.app.fragments import Windows, clip_html, file_of, found_html, look_html, refused_html, why_html
from verbspace.uses.app.keys import Keys
from verbspace.uses.app.limits import Refused
from verbspace.uses.app.studio import Looked, Studio
from verbspace.uses.printing import clock

WHOLE = "the whole clip"
TITLE = "verbspace"
_QUEUE = 32  # people who may wait
_SESSIONS = 64  # whose clips are remembered
_SHOWN = 4096  # windows of the index that more can be asked of
_BAD_PLAYER = """element.addEventListener('error', event => {
  const player = event.target.closest('.clip');
  if (player) player.classList.add('failed');
}, true);"""
# The page names a window by the key that it was given; whatever else comes is answered with a sentence.
_MORE = """let asked = false;
element.addEventListener('click', event => {
  const button = event.target.closest('[data-more]');
  if (button) { asked = true; trigger('click', {key: button.dataset.more}); }
});
if (typeof watch === 'function') watch('value', () => {
  const found = asked && element.querySelector('.verbspace');
  if (found) { asked = false; found.focus({preventScroll: true}); found.scrollIntoView(); }
});"""


def build(studio: Studio, clips: Clips) -> Any:
    """The page as Gradio Blocks. Raises ValueError where gradio is missing."""
    try:
        import gradio as gr
    except ImportError:
        raise ValueError("the app needs gradio; pip install 'verbspace[app]'") from None

    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "encoders", "api_visibility": "private"}
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# verbspace\nDrop a clip to see what it is taken for, when, and why. Change the actions, and the scores "
            "follow."
        )
        memory = gr.State(None, time_to_live=3600)
        with gr.Tabs():
            with gr.Tab("Clip"), gr.Row():
                with gr.Column(scale=2, min_width=300):
                    # Not gr.Video: that shows what was uploaded as it is, and complains of what browsers do not play.
                    video = gr.File(label="A clip", elem_id="clip", height=140)
                    player = gr.HTML(elem_id="player", js_on_load=_BAD_PLAYER)
                    picked = gr.Dropdown(
                        list(studio.clips), value=None, label="Or pick one", elem_id="pick", interactive=True,
                        visible=bool(studio.clips),
                    )  # fmt: skip
                    actions = gr.Textbox(
                        "\n".join(studio.concepts.action_names), label="Actions, one a line", lines=8, max_lines=14,
                        elem_id="actions", max_length=studio.limits.actions * studio.limits.letters,
                    )  # fmt: skip
                    again = gr.Button("Back to the first actions", size="sm", elem_id="reset")
                with gr.Column(scale=5, min_width=300):
                    answers = gr.HTML(_hint("Drop a clip, or pick one."), elem_id="answers")
                    part = gr.Dropdown(
                        [WHOLE], value=WHOLE, label="Explain", elem_id="part", interactive=True, visible=False
                    )
                    why = gr.HTML(elem_id="why")
            if studio.searcher is not None:
                with gr.Tab("Search"):
                    with gr.Row(equal_height=True):
                        query = gr.Textbox(
                            label="What to look for", elem_id="query", scale=5, max_length=studio.limits.letters,
                            placeholder="a person bowing · or “a person running” − “outdoors”",
                        )  # fmt: skip
                        top = gr.Slider(1, 50, 12, step=1, label="How many", elem_id="top", scale=2)
                        each = gr.Checkbox(
                            True,
                            label="The best of each video",
                            elem_id="each",
                            scale=2,
                            container=False,
                            min_width=200,
                        )
                        go = gr.Button("Search", variant="primary", elem_id="go", scale=1, min_width=120)
                    results = gr.HTML(elem_id="results", js_on_load=_MORE)
                    windows: Windows = Keys(_SHOWN)

                    def more(count: int, per_video: bool, event: Any) -> str:
                        return _more(studio, clips, windows, getattr(event, "_data", None), count, per_video)

                    more.__annotations__["event"] = gr.EventData  # Gradio goes by it, and is not known above
                    gr.on(
                        [go.click, query.submit], lambda *asked: _found(studio, clips, windows, *asked),
                        [query, top, each], results, **one_at_a_time,
                    )  # fmt: skip
                    results.click(more, [top, each], results, **one_at_a_time)

        def previewed(path: str | None) -> str:
            """A clip to play, where it may be looked at; where it may not, the answers say why."""
            if path is None:
                return ""
            try:
                studio.limits.check_clip(Path(path), Path(path).name)
            except Refused:
                return ""
            return clip_html(Path(path).name, clips.whole(Path(path)))

        def looked_at(path: str | None, words: str) -> tuple[Any, ...]:
            """A new clip: what it is, said side by side, and which parts of it can be explained."""
            if path is None:
                return None, _hint("Drop a clip, or pick one."), gr.update(visible=False), ""
            try:
                looked = studio.look(Path(path), Path(path).name)
                return (looked, *_said(gr, studio, looked, words))
            except Refused as reason:
                return None, refused_html(str(reason)), gr.update(visible=False), ""

        def said_again(looked: Looked | None, words: str) -> tuple[Any, ...]:
            """New words for the clip that was looked at."""
            if looked is None:
                return _hint("Drop a clip, or pick one."), gr.update(visible=False), ""
            try:
                return _said(gr, studio, looked, words)
            except Refused as reason:
                return refused_html(str(reason)), gr.update(visible=False), ""

        def explained(looked: Looked | None, words: str, which: str) -> str:
            """Why, for one of the parts."""
            if looked is None:
                return ""
            try:
                start, end = _stretch(studio, looked, words, which)
                return why_html(studio.why(looked, words, start, end))
            except Refused as reason:
                return refused_html(str(reason))

        first = "\n".join(studio.concepts.action_names)
        shown = [answers, part, why]
        video.change(looked_at, [video, actions], [memory, *shown], **one_at_a_time).then(
            explained, [memory, actions, part], why, **one_at_a_time
        )
        video.change(previewed, video, player, concurrency_limit=1, concurrency_id="players", api_visibility="private")
        # Not `input`: that comes when a keyboard passes by, too, and would take the clip away.
        picked.change(
            lambda name: str(studio.clips[name]) if name else gr.skip(), picked, video, api_visibility="private"
        )
        actions.change(
            said_again, [memory, actions], shown, trigger_mode="always_last", show_progress="hidden", **one_at_a_time
        ).then(explained, [memory, actions, part], why, show_progress="hidden", **one_at_a_time)
        again.click(lambda: first, None, actions, api_visibility="private")
        part.input(explained, [memory, actions, part], why, **one_at_a_time)
    page.queue(max_size=_QUEUE, api_open=False)
    page.state_session_capacity = _SESSIONS
    return page


def _said(gr: Any, studio: Studio, looked: Looked, words: str) -> tuple[Any, ...]:
    answers = studio.answers(looked, words)
    parts = _parts(answers[0].timeline, looked)
    return look_html(looked, answers), gr.update(choices=list(parts), value=WHOLE, visible=True), ""


def _parts(timeline: Any, looked: Looked) -> dict[str, tuple[float, float]]:
    """The stretches that can be explained, by what the page calls them."""
    parts = {WHOLE: (0.0, looked.seconds)}
    for one in timeline:
        parts[f"{clock(one.start)} – {clock(one.end)}: {one.action}"] = (one.start, one.end)
    return parts


def _stretch(studio: Studio, looked: Looked, words: str, which: str) -> tuple[float, float]:
    parts = _parts(studio.answers(looked, words)[0].timeline, looked)
    if which not in parts:
        raise Refused("this part belongs to other actions; choose one again")
    return parts[which]


def _found(studio: Studio, clips: Clips, windows: Windows, text: str, count: int, per_video: bool) -> str:
    try:
        hits = studio.search(text or "", count, per_video=per_video)
    except Refused as reason:
        return refused_html(str(reason))
    return found_html(hits, clips, [file_of(hit) for hit in hits], windows)


def _more(studio: Studio, clips: Clips, windows: Windows, asked: Any, count: int, per_video: bool) -> str:
    """asked: what the browser says, which may be anything."""
    key = asked.get("key") if isinstance(asked, dict) else None
    window = windows.get(key) if isinstance(key, str) else None
    try:
        if window is None:
            raise Refused("the app does not know this window any more; search again")
        like, hits = studio.more(*window, count, per_video=per_video)
    except Refused as reason:
        return refused_html(str(reason))
    return found_html(hits, clips, [file_of(hit) for hit in hits], windows, like)


def _hint(text: str) -> str:
    return f'<div class="verbspace"><p class="soft">{text}</p></div>'
