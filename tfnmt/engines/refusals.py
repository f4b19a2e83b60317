"""Why the servers do not take a payload, in words."""

from graphs.fragments import Fragment
from tfnmt.engines.worker import Push
from tfnmt.layout import Layout


def reason(push: Push, element: int, layout: Layout, fragments: int) -> str:
    """Why a payload does not count that is neither a duplicate nor too stale.

    Args:
      push: the payload.
      element: the first of the payload that was not finite; -1 for none.
      layout: of the parameters.
      fragments: parts of the vectors, of which the payload is one.
    """
    if element >= 0:
        element = Fragment(push.fragment, fragments).place(element, layout.size)
    element = max(element, push.work.nonfinite_at)
    if element < 0 and not push.work.sums.target_tokens:
        return f"there was no target token in step {push.step} of worker {push.worker}"
    vector, place = divmod(element, layout.size)
    kind = "local optimizer's state" if vector > 0 else "gradient"
    what = "the gradient's norm" if element < 0 else f"the {kind} of {layout.name_at(place)}"
    return f"{what} was not finite at step {push.step} of worker {push.worker}"
