//! What names mean at a place in a query.

use super::Bound;
use crate::ast::{Ast, Name};
use crate::expr::{Expr, Node};
use crate::fault::Fault;
use crate::types::SqlType;

/// The names that an expression may use.
pub(crate) trait Scope {
    /// The meaning of a whole expression, where it is more than that of its parts: a grouping
    /// expression, or an aggregate.
    fn substitute(&self, ast: &Ast) -> Option<Bound<Expr>>;

    /// A column.
    fn column(&self, qualifier: Option<&Name>, name: &Name) -> Bound<Expr>;
}

/// A source in FROM or JOIN.
#[derive(Debug, Clone)]
pub(crate) struct ScopeSource {
    /// Its alias, or its name.
    pub label: String,
    /// Its columns, the pseudo columns last.
    pub columns: Vec<(String, SqlType)>,
}

/// Pseudo columns answer to their name in any case, whatever the case of the others.
fn is_named(column: &str, name: &str) -> bool {
    const PSEUDO: [&str; 5] = ["ROWTIME", "ROWPARTITION", "ROWOFFSET", "WINDOWSTART", "WINDOWEND"];
    let is_pseudo = || PSEUDO.iter().any(|pseudo| pseudo.eq_ignore_ascii_case(column));
    column == name || (column.eq_ignore_ascii_case(name) && is_pseudo())
}

/// The columns of the sources, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct RowScope {
    pub sources: Vec<ScopeSource>,
}

impl RowScope {
    /// Number and type of a column.
    pub fn find(&self, qualifier: Option<&Name>, name: &Name) -> Bound<(usize, SqlType)> {
        let mut offset = 0;
        let mut found: Option<(usize, SqlType, &str)> = None;
        let mut qualifier_known = qualifier.is_none();
        for source in &self.sources {
            if qualifier.is_none_or(|wanted| wanted.text == source.label) {
                qualifier_known = true;
                if let Some(at) = source.columns.iter().position(|(n, _)| is_named(n, &name.text)) {
                    if let Some((_, _, other)) = found {
                        let message = format!(
                            "{} is a column of both {other} and {}",
                            name.text, source.label
                        );
                        let help = format!("write {other}.{0} or {1}.{0}", name.text, source.label);
                        return Err(Box::new(Fault::new(name.span, message).help(help)));
                    }
                    found = Some((offset + at, source.columns[at].1.clone(), &source.label));
                }
            }
            offset += source.columns.len();
        }
        if let Some((index, kind, _)) = found {
            return Ok((index, kind));
        }
        if let (Some(qualifier), false) = (qualifier, qualifier_known) {
            let fault = Fault::new(
                qualifier.span,
                format!("{} is no source of this query", qualifier.text),
            );
            let labels = self.sources.iter().map(|s| s.label.as_str());
            return Err(Box::new(fault.nearest(&qualifier.text, labels)));
        }
        let known = self
            .sources
            .iter()
            .filter(|s| qualifier.is_none_or(|wanted| wanted.text == s.label))
            .flat_map(|s| s.columns.iter().map(|(name, _)| name.as_str()));
        let fault = Fault::new(name.span, format!("unknown column {}", name.text));
        Err(Box::new(fault.nearest(&name.text, known)))
    }
}

impl Scope for RowScope {
    fn substitute(&self, _: &Ast) -> Option<Bound<Expr>> {
        None
    }

    fn column(&self, qualifier: Option<&Name>, name: &Name) -> Bound<Expr> {
        if ["WINDOWSTART", "WINDOWEND"].iter().any(|w| w.eq_ignore_ascii_case(&name.text))
            && self.find(qualifier, name).is_err()
        {
            let message =
                format!("{} has a value only where a window's groups are selected", name.text);
            return Err(Box::new(Fault::new(name.span, message)));
        }
        let (index, kind) = self.find(qualifier, name)?;
        Ok(Expr { node: Node::Column(index), kind })
    }
}
