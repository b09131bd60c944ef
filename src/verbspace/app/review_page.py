"""The tab of the review queue: a video, its most probable actions, and keys to accept or correct them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verbspace.app.html import rejection_html, short_path
from verbspace.app.media import ClipSegment, ClipStore
from verbspace.app.review import MAX_CHOICES, ReviewQueue
from verbspace.data.sources.storage import split_segment
from verbspace.reporting.templating import render_template

OTHER = "review-other"  # id of the list of all actions
# A click or key names the video that was on the page, so that a second press does not label the next one.
_KEYS_JS = """
const send = (command, choice) => {
  const card = element.querySelector('[data-item]');
  if (card) trigger('click', {command, choice, item: Number(card.dataset.item)});
};
element.addEventListener('click', event => {
  const button = event.target.closest('[data-command]');
  if (button) send(button.dataset.command, Number(button.dataset.choice || 0));
});
document.addEventListener('keydown', event => {
  if (!element.offsetParent || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest('input, textarea, select, [contenteditable]')) return;
  const key = event.key.toLowerCase();
  if (key === 'enter' && event.target.closest('button, video, [role=tab]')) return;
  const command = {enter: 'answer', s: 'skip', u: 'undo'}[key] || (/^[1-9]$/.test(key) ? 'answer' : '');
  if (command) send(command, /^[1-9]$/.test(key) ? Number(key) - 1 : 0);
  else if (key === 'o') document.querySelector('#review-other input')?.focus();
  else return;
  event.preventDefault();
});
if (typeof watch === 'function') watch('value', () => {
  if (document.activeElement?.closest('#review-other')) document.activeElement.blur();
});
"""


def build_review_tab(gr: Any, queue: ReviewQueue, clip_store: ClipStore) -> None:
    """Build the tab, in the context of Gradio Blocks."""
    shown = gr.State()
    card = gr.HTML(elem_id="review", js_on_load=_KEYS_JS)
    other = gr.Dropdown(
        queue.actions, value=None, label="Another action", elem_id=OTHER, interactive=True, filterable=True
    )
    options: dict[str, Any] = {
        "concurrency_limit": 1, "concurrency_id": "review", "api_visibility": "private", "show_progress": "hidden",
    }  # fmt: skip

    def on_load() -> tuple[Any, ...]:
        return review_html(queue, clip_store), queue.current()

    def by_key(event: Any) -> tuple[Any, ...]:
        return handle_event(queue, clip_store, getattr(event, "_data", None)), queue.current()

    def by_name(number: int | None, label: str | None) -> tuple[Any, ...]:
        if label is None:
            return gr.skip(), gr.skip(), gr.skip()
        data = {"command": "label", "label": label, "item": number}
        return handle_event(queue, clip_store, data), queue.current(), gr.update(value=None)

    by_key.__annotations__["event"] = gr.EventData  # Gradio reads the annotation; gr is not imported above
    # One event at a time, so that a slow first page does not replace the answer to a key.
    gr.on(None, on_load, None, [card, shown], **options)
    card.click(by_key, None, [card, shown], **options)
    other.input(by_name, [shown, other], [card, shown, other], **options)


def handle_event(queue: ReviewQueue, clip_store: ClipStore, data: Any) -> str:
    """Do what a click or key asks for, and render the next video. `data` comes from the browser and can be anything."""
    fields = data if isinstance(data, dict) else {}
    item, choice, label = fields.get("item"), fields.get("choice"), fields.get("label")
    try:
        match fields.get("command"):
            case "undo":
                queue.undo()
            case "skip" if isinstance(item, int):
                queue.skip(item)
            case "answer" if item == queue.current() and isinstance(item, int) and isinstance(choice, int):
                ranking = queue.items[item].ranking[:MAX_CHOICES]
                if 0 <= choice < len(ranking):
                    queue.answer(item, ranking[choice][0])
            case "label" if isinstance(item, int) and isinstance(label, str):
                queue.answer(item, label)
    except (ValueError, OSError) as error:
        return rejection_html(str(error)) + review_html(queue, clip_store)
    return review_html(queue, clip_store)


def review_html(queue: ReviewQueue, clip_store: ClipStore) -> str:
    """Render the current video, or that all are labeled."""
    number, (done, total) = queue.current(), queue.progress
    context: dict[str, Any] = {"done": done, "total": total, "labels_file": queue.labels_file.name, "number": number}
    if number is not None:
        item = queue.items[number]
        file, segment = split_segment(item.path)
        part = ClipSegment(Path(file), 0.0, 0.0)
        if segment is not None:
            part = ClipSegment(Path(file), segment.start, segment.end or 0.0)
        context |= {
            "name": short_path(item.path),
            "url": clip_store.url_for(part) if part.path.is_file() else None,
            "ranking": item.ranking[:MAX_CHOICES],
        }
    return render_template("app_review.html.jinja", **context)
