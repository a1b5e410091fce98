from bids_gmvae.posterior import STATUS_DESCRIPTIONS, Status


def test_codes_of_the_status_map_stay_what_earlier_maps_hold():
    assert {code.name: int(code) for code in Status} == {
        "OUTSIDE": 0,
        "FITTED": 1,
        "AT_BOUND": 2,
        "NOT_CONVERGED": 3,
        "NOT_FINITE": 4,
        "NO_SIGNAL_SUPPORT": 5,
        "UNIDENTIFIED": 6,
    }
    assert set(STATUS_DESCRIPTIONS) == set(Status)
