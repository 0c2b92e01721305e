//! Looking up one space, beside the keeper.

use super::catalog::{Catalog, CatalogError, SpaceRecord};
use crate::ids::SpaceId;

impl Catalog {
    /// One space, as the last commit left it; nothing if it is unknown. A
    /// commit under way does not hold it up.
    ///
    /// # Errors
    ///
    /// As [`Catalog::load`].
    pub fn space(&self, space: &SpaceId) -> Result<Option<SpaceRecord>, CatalogError> {
        Ok(self.load_some(Some(space))?.remove(space))
    }
}
