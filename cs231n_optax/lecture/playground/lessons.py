"""The lessons: prepared states of the page, one for each thing that the lecture says."""

from typing import NamedTuple


class Lesson(NamedTuple):
    """A link: its section of the lecture, a title, what to look at, and the state of the page."""

    section: str
    title: str
    text: str
    state: str


LESSONS = (
    Lesson(
        "7-1-2 A",
        "SGD zigzags in a narrow valley",
        "Slow along the shallow direction, jitter across the steep one. Raise κ: it gets worse.",
        "#l=taco-shell&kappa=50&m=sgd&f=sgd&sgd.learning_rate=0.038&t=25",
    ),
    Lesson(
        "7-1-2 B",
        "SGD stays in a local minimum; momentum rolls on",
        "The gradient vanishes at (−1, 0). A velocity carries over the barrier.",
        "#l=local-minimum&m=sgd,momentum&f=momentum&sgd.learning_rate=0.05"
        "&momentum.learning_rate=0.05&t=30",
    ),
    Lesson(
        "7-1-2 B",
        "SGD waits at a saddle",
        "Near the saddle the gradient is almost zero. Step on: it takes long to leave.",
        "#l=saddle&x=-1.5,0.0001&m=sgd,nesterov&f=sgd&sgd.learning_rate=0.1"
        "&nesterov.learning_rate=0.1&t=24",
    ),
    Lesson(
        "7-1-2 C",
        "A noisy gradient meanders",
        "The same valley with noise, as from mini-batches: SGD never settles. "
        "A decay of the rate calms it, see 7-1-8.",
        "#l=taco-shell&m=sgd&f=sgd&noise=8&t=150",
    ),
    Lesson(
        "7-1-3",
        "Momentum: velocity and gradient add up to the step",
        "The old velocity (green) and the gradient (red) give the step (blue).",
        "#l=taco-shell&kappa=10&x=-9,2.5&m=sgd,momentum&f=momentum"
        "&sgd.learning_rate=0.03&momentum.learning_rate=0.03&t=5",
    ),
    Lesson(
        "7-1-3",
        "Nesterov overshoots less than momentum",
        "Its gradient is taken at the end of the velocity, so it brakes earlier.",
        "#l=taco-shell&kappa=10&x=-9,2.5&m=momentum,nesterov&f=nesterov"
        "&momentum.learning_rate=0.03&nesterov.learning_rate=0.03&t=12",
    ),
    Lesson(
        "7-1-4, 7-1-5",
        "AdaGrad's steps shrink, RMSProp's do not",
        "The green cross is the rate of each coordinate: AdaGrad divides by the sum of all "
        "squares.",
        "#l=taco-shell&kappa=50&m=adagrad,rmsprop&f=adagrad&adagrad.learning_rate=0.2"
        "&rmsprop.learning_rate=0.2&t=60",
    ),
    Lesson(
        "7-1-6, 7-1-7",
        "Adam's first step is too long without the correction",
        "Both have the rate 0.5. The second moment starts at zero: one step of 1.6 in place of "
        "0.5.",
        "#l=himmelblau&x=2.5,1.6&m=adam-uncorrected,adam&f=adam-uncorrected"
        "&adam-uncorrected.learning_rate=0.5&adam.learning_rate=0.5&t=1",
    ),
    Lesson(
        "7-1-8",
        "A decay of the rate calms the noise",
        "The rate is halved every 50 steps. Set the decay to “constant” to compare.",
        "#l=taco-shell&m=sgd&f=sgd&decay=step,50,0.5&noise=8&t=200",
    ),
    Lesson(
        "7-1-9",
        "Newton's model and its trust region",
        "The blue contours are those of the quadratic model; the step is its minimum within "
        "the circle. Hollow points are rejected trials, after which the circle shrinks.",
        "#l=rosenbrock&m=newton&f=newton&t=6",
    ),
    Lesson(
        "7-1-9",
        "On a quadratic, Newton needs one step",
        "No learning rate, whatever κ is. BFGS learns the same from gradients alone.",
        "#l=taco-shell&kappa=200&m=sgd,bfgs,newton&f=newton&sgd.learning_rate=0.0095&t=8",
    ),
    Lesson(
        "7-1-10",
        "L-BFGS works very well in full batch, …",
        "Its direction (blue) against steepest descent (red); hollow points are rejected trials.",
        "#l=rosenbrock&m=sgd,momentum,lbfgs&f=lbfgs&t=40",
    ),
    Lesson(
        "7-1-10",
        "… and badly with noise",
        "The search compares values with gradients that do not belong to them, and gives up; "
        "Adam goes on.",
        "#l=taco-shell&m=adam,lbfgs&f=lbfgs&noise=8&adam.learning_rate=0.2&t=200",
    ),
)
