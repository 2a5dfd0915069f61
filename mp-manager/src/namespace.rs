//! Namespaces.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use crate::link::{Handle, Link, nothing, proxy};
use crate::object::{Object, Repr, separated};
use crate::ordered::Ordered;
use crate::{Error, Result};

type Names = Ordered<String, Object>;

/// A proxy of a namespace in a manager's server: values of any simple type, by their names.
///
/// It prints as Python prints a namespace.
///
/// Python: `multiprocessing.Manager().Namespace()`. `ns.x` is `get("x")`, `ns.x = 1` is `set("x", 1)`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::{Error, Manager};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let settings = manager.namespace()?; // clone it, and send it to other processes
///     settings.set("x", 10)?;
///     settings.set("y", "hello")?;
///     assert_eq!(settings.get("x")?, 10.into());
///     assert!(matches!(settings.get("z"), Err(Error::KeyMissing)));
///     assert_eq!(settings.to_string(), "Namespace(x=10, y='hello')");
///     Ok(())
/// }
/// ```
#[doc(alias = "NamespaceProxy")]
pub struct Namespace {
    handle: Handle,
    of: PhantomData<()>,
}

proxy!(Namespace);

impl Namespace {
    pub(crate) fn create(link: &Arc<Link>) -> Result<Self> {
        link.make(nothing, |_| Ok(Arc::new(Mutex::new(Names::default())))).map(Self::from_handle)
    }

    /// Sets a value.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias("setattr", "__setattr__"))]
    pub fn set(&self, name: &str, value: impl Into<Object>) -> Result<()> {
        let value = value.into();
        self.handle.value(
            |to| to.put(name)?.put(&value).map(drop),
            |names: &mut Names, from, to| {
                let (name, value) = (from.get()?, from.get()?);
                names.insert(name, value);
                to.put(&()).map(drop)
            },
        )
    }

    /// The value of a name.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](Error::KeyMissing); [every call's](crate#errors).
    #[doc(alias("getattr", "__getattr__"))]
    pub fn get(&self, name: &str) -> Result<Object> {
        let found: Option<Object> = self.handle.value(
            |to| to.put(name).map(drop),
            |names: &mut Names, from, to| to.put(&names.get(&from.get()?)).map(drop),
        )?;
        found.ok_or(Error::KeyMissing)
    }

    /// Removes a name; gives its value.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](Error::KeyMissing); [every call's](crate#errors).
    #[doc(alias("delattr", "__delattr__"))]
    pub fn remove(&self, name: &str) -> Result<Object> {
        let found: Option<Object> = self.handle.value(
            |to| to.put(name).map(drop),
            |names: &mut Names, from, to| to.put(&names.remove(&from.get()?)).map(drop),
        )?;
        found.ok_or(Error::KeyMissing)
    }

    /// Whether there is such a name.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "hasattr")]
    pub fn contains(&self, name: &str) -> Result<bool> {
        self.handle.value(
            |to| to.put(name).map(drop),
            |names: &mut Names, from, to| to.put(&names.contains(&from.get()?)).map(drop),
        )
    }

    /// All names and values, in the order the names were set first.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn items(&self) -> Result<Vec<(String, Object)>> {
        self.handle.value(nothing, |names: &mut Names, _, to| {
            let rows: Vec<(&String, &Object)> = names.iter().collect();
            to.put(&rows).map(drop)
        })
    }
}

impl Repr for Namespace {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = match self.items() {
            Ok(rows) => rows,
            Err(error) => return write!(f, "<Namespace: {error}>"),
        };
        f.write_str("Namespace(")?;
        separated(f, &rows, |f, (name, value)| write!(f, "{name}={value}"))?;
        f.write_str(")")
    }
}

impl fmt::Display for Namespace {
    /// The names and values of this moment, as Python prints them; where they cannot be had, why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr(f)
    }
}
