"""The jobs of the timer: settlement, the roll-up, the end of old rows, reminders, and the export of charges."""

import logging

from shared.affinity import directory
from shared.alerts.dispatcher import Alerts
from shared.billing.focus_export import open_exporter
from shared.config.document import Configuration
from shared.config.environment import Storage
from shared.errors import StoreUnavailable
from shared.lifecycle import reminders
from shared.limits import cleanup
from shared.management.audit import Audit
from shared.settlement import timer as settlement
from shared.settlement.settler import Settler
from shared.storage import Store
from shared.usage import rollup

logger = logging.getLogger("tollgate")


async def run(store: Store, storage: Storage, configuration: Configuration, settler: Settler, alerts: Alerts) -> None:
    """Do it once. `storage`: of the export. Raises `StoreUnavailable`."""
    await _settle(store, settler)  # first, so that the roll-up folds what this adds to past hours
    keep_months = configuration.ledger.keep_months
    logger.info("roll-up: %s", await rollup.roll_up(store, keep_months=keep_months))
    await cleanup.forget_idle(store, configuration)
    await directory.drop_old(store)
    await Audit(store).drop_old()
    await alerts.clean_up()
    await reminders.remind(store, configuration, alerts)
    if configuration.export.container is not None:
        async with open_exporter(storage, configuration, store) as exporter:
            for name in await exporter.write_due():
                logger.info("export: %s written", name)


async def _settle(store: Store, settler: Settler) -> None:
    try:
        logger.info("settlement: %s", await settlement.run(store, settler))
    except StoreUnavailable as error:
        logger.warning("settlement postponed: %s", error)
