"""Protocols on arrays: what agents agree on between request and contention, as environments apply it."""

from camac_dra.coordination.agreements.averaging import AveragingAgreement
from camac_dra.coordination.agreements.central import CentralAgreement
from camac_dra.coordination.agreements.factory import agreement_for, make_agreement
from camac_dra.coordination.agreements.mixing import Lots
from camac_dra.coordination.agreements.trace import Trace

__all__ = [
    "AveragingAgreement",
    "CentralAgreement",
    "Lots",
    "Trace",
    "agreement_for",
    "make_agreement",
]
