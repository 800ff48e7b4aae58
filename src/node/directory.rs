//! What a data directory says about the settings of its node.

use dynakv_protocol::codec::Wire;
use dynakv_protocol::ring_document::RingDocument;
use dynakv_storage::peek_document;

use super::ServeError;
use crate::config::Config;
use crate::runtime::control::StartedWith;
use crate::runtime::shared::data_directory::RING;
use crate::settings::check_founding;

/// Holds settings against the data directory before anything is touched: against its ring where it has one,
/// and otherwise against the cluster that would be founded. Of what cannot be read the start says more.
///
/// # Errors
/// [`ServeError::Setting`], [`ServeError::Control`].
pub(crate) fn check_directory(config: &Config) -> Result<(), ServeError> {
    let Ok(document) = peek_document(&config.data_dir, RING) else {
        return Ok(());
    };
    let Some(document) = document else {
        let checked = check_founding(config);
        return checked.map_err(|(name, reason)| ServeError::Setting { name, reason });
    };
    let Ok(ring) = RingDocument::from_bytes(&document) else {
        return Ok(());
    };
    let started_with = StartedWith {
        cluster_name: &config.cluster_name,
        quorums: (config.n, config.w, config.r),
        id: &config.id,
        zone: &config.zone,
        weight: config.weight,
    };
    Ok(started_with.hold_against(&ring)?)
}
