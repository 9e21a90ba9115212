"""A watch of a training, made of a function."""

from hyperfocal.training.watch import Watch


def on_step(call) -> Watch:
    """Return a watch whose `stepped` is `call`."""
    watch = Watch()
    watch.stepped = call
    return watch
