//! A map that keeps the order of insertion, as Python's dict does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// A map in the order in which its keys were inserted first.
///
/// The keys lie in the index and in the rows, shared, so that they need not be `Clone`. A removed row leaves a gap;
/// once there are more gaps than rows, the rows move up.
pub(crate) struct Ordered<K, V> {
    index: HashMap<Arc<K>, usize>,
    rows: Vec<Option<(Arc<K>, V)>>,
}

impl<K, V> Default for Ordered<K, V> {
    fn default() -> Self {
        Self { index: HashMap::new(), rows: Vec::new() }
    }
}

impl<K: Eq + Hash, V> Ordered<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.index.contains_key(key)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (_, value) = self.rows.get(*self.index.get(key)?)?.as_ref()?;
        Some(value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (_, value) = self.rows.get_mut(*self.index.get(key)?)?.as_mut()?;
        Some(value)
    }

    /// Gives the value that was there. The key that was there stays.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(old) = self.get_mut(&key) {
            return Some(std::mem::replace(old, value));
        }
        let key = Arc::new(key);
        self.index.insert(Arc::clone(&key), self.rows.len());
        self.rows.push(Some((key, value)));
        None
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.index.remove(key)?;
        let (_, value) = self.rows.get_mut(place)?.take()?;
        self.close_gaps();
        Some(value)
    }

    /// Takes out the row that was inserted last.
    pub(crate) fn pop(&mut self) -> Option<(K, V)> {
        loop {
            if let Some((key, value)) = self.rows.pop()? {
                self.index.remove(&key);
                self.close_gaps();
                // The index had the only other share.
                return Some((Arc::into_inner(key)?, value));
            }
        }
    }

    fn close_gaps(&mut self) {
        while let Some(None) = self.rows.last() {
            self.rows.pop();
        }
        if self.rows.len() > 2 * self.index.len() + 16 {
            self.rows.retain(Option::is_some);
            for (place, row) in self.rows.iter().enumerate() {
                if let Some((key, _)) = row
                    && let Some(at) = self.index.get_mut(key)
                {
                    *at = place;
                }
            }
            if self.rows.capacity() > 4 * self.rows.len() + 64 {
                self.rows.shrink_to_fit();
                self.index.shrink_to_fit();
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().flatten().map(|(key, value)| (&**key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_as_a_vector_that_is_searched(
            steps in prop::collection::vec((0_u8..5, 0_u8..24, any::<u8>()), 0..400),
        ) {
            let (mut map, mut model) = (Ordered::default(), Vec::<(u8, u8)>::new());
            for (step, key, value) in steps {
                let place = model.iter().position(|(other, _)| *other == key);
                match step {
                    0 | 1 => {
                        let old = place.map(|place| std::mem::replace(&mut model[place].1, value));
                        if place.is_none() {
                            model.push((key, value));
                        }
                        prop_assert_eq!(map.insert(key, value), old);
                    }
                    2 | 3 => prop_assert_eq!(map.remove(&key), place.map(|place| model.remove(place).1)),
                    _ => prop_assert_eq!(map.pop(), model.pop()),
                }
                let place = model.iter().find(|(other, _)| *other == key);
                prop_assert_eq!(map.get(&key), place.map(|(_, value)| value));
                prop_assert_eq!(map.contains(&key), place.is_some());
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.rows.len() <= 2 * map.len() + 17);
            }
            let all: Vec<_> = map.iter().map(|(&key, &value)| (key, value)).collect();
            prop_assert_eq!(all, model);
        }
    }
}
