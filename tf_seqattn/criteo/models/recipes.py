"""How click models are trained, by name."""

import dataclasses

import tf_keras as keras


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Steps, batches, learning rates of Adam, and what holds back overfitting.

    Attributes:
      batch_size: rows of a batch, of all replicas together.
      epochs: passes over the training rows; give it or `steps`.
      steps: number of training steps, however many passes that is.
      first_rate: learning rate at the first step.
      last_rate: at the last step; it decays exponentially in between.
      dropout: share of the outputs of each hidden layer that a step leaves out.
      table_l2: weight of half the sum of squares of the embeddings in the loss.
      weight_decay: times the learning rate, the share of a kernel that a step takes
        off; also the weight of half the sum of squares of the logits in the loss.
      patience: how many validations without a better AUC end the training, which then
        keeps the weights of the best one; by default it runs to the end.

    Raises:
      ValueError: unless exactly one of `epochs` and `steps` is given.

    Example:

    >>> RECIPES["paper"].num_steps(rows=33_003_326)
    25175
    """

    batch_size: int
    epochs: float | None = None
    steps: int | None = None
    first_rate: float = 2e-3
    last_rate: float = 3e-4
    dropout: float = 0.0
    table_l2: float = 0.0
    weight_decay: float = 0.0
    patience: int | None = None

    def __post_init__(self):
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                "Give one of `epochs` and `steps`. Received: "
                f"epochs={self.epochs!r}, steps={self.steps!r}"
            )

    def num_steps(self, rows: int) -> int:
        """Number of training steps for so many training rows.

        Raises:
          ValueError: if there are fewer rows than a batch takes.
        """
        if rows < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of training rows, {rows}. "
                f"Received: batch_size={self.batch_size!r}"
            )
        if self.steps is not None:
            return self.steps
        return int(self.epochs * (rows // self.batch_size))

    @property
    def validations(self) -> int:
        """How often to validate: after every epoch where that may end the training."""
        return int(self.epochs) if self.patience and self.epochs else 10

    def learning_rate(
        self, steps: int
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        """Returns the schedule of the rate over so many steps."""
        return decaying_rate(self.first_rate, self.last_rate, steps)


def decaying_rate(
    first_rate: float, last_rate: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a learning rate that decays exponentially over so many steps.

    Example:

    >>> round(float(decaying_rate(0.04, 0.01, steps=100)(50)), 4)
    0.02
    """
    return keras.optimizers.schedules.ExponentialDecay(
        first_rate, steps, last_rate / first_rate
    )


RECIPES = {
    # Section 4.2 of the paper, on 33 million rows. Its appendix C.1 says that weight
    # decay helps and gives no strength, so there is none.
    "paper": Recipe(32_768, epochs=25, first_rate=2e-2, last_rate=3e-4),
    # BARS trains a DNN so, for as many epochs as it takes. A schedule that prunes has
    # to know its end, hence ten.
    "bars": Recipe(
        4096,
        epochs=10,
        first_rate=1e-3,
        last_rate=1e-3,
        dropout=0.1,
        table_l2=1e-5,
        patience=2,
    ),
    # What fits a few minutes of two cores.
    "demo": Recipe(2048, steps=3000, first_rate=2e-3, last_rate=3e-4),
}
