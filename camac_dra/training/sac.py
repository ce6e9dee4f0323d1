"""SAC over array fragments: RLlib's algorithm, learner group and env runner group around an array replay
buffer.
"""

from __future__ import annotations

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac.sac import SAC

from camac_dra.training.replay_algorithm import ReplayAlgorithm
from camac_dra.training.replay_settings import SACSettings
from camac_dra.training.sac_learner import ArraySACConfig, ArraySACLearner


class ArraySAC(ReplayAlgorithm, SAC):
    """Soft actor-critic for continuous actions: squashed Gaussian policy, twin critics, automatic temperature
    (Haarnoja et al. 2018).
    """

    config: ArraySACConfig
    learner: ArraySACLearner
    settings: SACSettings

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Return the configuration class; ``build_algorithm_config`` fills it."""
        return ArraySACConfig(algo_class=cls)
