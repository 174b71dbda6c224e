"""The keys of this project."""

from __future__ import annotations

from detectron2.config import CfgNode

STRATEGIES = ("kd3a", "fedavg", "fedprox", "krum", "bulyan", "trimmed", "median")


def add_kd3a_config(cfg: CfgNode) -> None:
    """Add the group KD3A."""
    cfg.KD3A = k = CfgNode()
    # The domains, each a party. The datasets of DOMAIN are called DOMAIN_train and DOMAIN_test.
    k.PARTIES = []
    # The domain without labels.
    k.TARGET = ""
    # kd3a, fedavg, fedprox, krum, bulyan, trimmed or median.
    k.STRATEGY = "kd3a"
    # How KD3A votes and weights: as the public "code" does or as the "paper" writes. Four domains
    # of digits came out better by "code" (README.md).
    k.VARIANT = "code"
    # Confidence that a source's vote needs, in the first round and after the last one.
    k.GATE = (0.9, 0.95)
    # α of the mixup of consensus; 0 does not mix.
    k.MIX_ALPHA = 2.0
    # The learning rate falls from SOLVER.BASE_LR to this along a cosine over all steps.
    k.END_LR = 0.001
    # Images that a party trains on in an epoch, and epochs.
    k.EPOCH_IMAGES = 6000
    k.EPOCHS = 20
    # Rounds in an epoch. Below 1 the sources train 1 / r epochs in a round, the target one.
    k.ROUNDS_PER_EPOCH = 1.0
    # Weight of FedProx's term.
    k.PROXIMAL_MU = 0.01
    # Parties that krum, bulyan and trimmed mean bear.
    k.BAD_PARTIES = 1
    # A source that lies, and the share of its images that it calls by the next class: to see what
    # comes of it.
    k.ATTACK_DOMAIN = ""
    k.ATTACK_LEVEL = 0.0
    # Rounds between evaluations of the global model at all parties; the last round has one.
    k.EVALUATE_EVERY = 1
    # Images of the target whose votes are drawn after each round; 0: none.
    k.VOTE_PICTURES = 24
    # Differential privacy of updates: "", "local" (each party adds noise) or "central" (parties
    # clip, the coordinator adds noise). See `kd3a.privacy`.
    k.PRIVACY = ""
    # Greatest norm of an update, beyond which it is scaled down.
    k.CLIPPING_NORM = 1.0
    # Of local privacy, for one round.
    k.EPSILON = 1.0
    k.DELTA = 1e-5
    # Of central privacy: noise in units of CLIPPING_NORM / number of parties averaged.
    k.NOISE_MULTIPLIER = 1.0
    # The coordinator learns the sum of updates only, by SecAgg+; fedavg alone allows it.
    k.SECURE_AGGREGATION = False
    # Weights beyond it are cut off when they are turned into the integers that SecAgg+ adds.
    k.SECURE_RANGE = 32.0
    # Seconds that parties have for their part of a round, and sources that it needs.
    k.DEADLINE = 600.0
    k.FEWEST_SOURCES = 1


def rounds(cfg: CfgNode) -> int:
    """How often the models meet."""
    return max(1, round(cfg.KD3A.EPOCHS * cfg.KD3A.ROUNDS_PER_EPOCH))


def shared_parts(cfg: CfgNode) -> tuple[str, ...]:
    """What parties take over from the average: tensors whose names begin so.

    KD3A's public code leaves every party its own classifier; the paper and all others do not.
    """
    own_classifiers = cfg.KD3A.STRATEGY == "kd3a" and cfg.KD3A.VARIANT == "code"
    return ("backbone.",) if own_classifiers else ("",)


def steps(cfg: CfgNode, target: bool) -> int:
    """Steps of a party in a round."""
    share = cfg.KD3A.ROUNDS_PER_EPOCH
    if target:
        share = max(1.0, share)
    return max(1, round(cfg.KD3A.EPOCH_IMAGES / share / cfg.SOLVER.IMS_PER_BATCH))
