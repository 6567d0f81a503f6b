"""From a model, devices and a wish to an engine that answers: what `edgewise run` and
`edgewise.load` share. Prints nothing: whoever asks says who shows progress and who is told."""
