"""How good a deployed model is: agreement with eager models, task accuracy, the gate."""
