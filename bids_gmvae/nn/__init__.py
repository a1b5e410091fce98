"""Networks of the self-supervised estimators; the physics is always the decoder."""
