//! Rust text as a flat list of tokens. Comments are gone, doc comments are attributes.

use std::str::FromStr;

use proc_macro2::{Delimiter, Literal, TokenStream, TokenTree};

use super::Finding;

/// What a rule may look at in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ident(String),
    /// One character: `::` is two.
    Punct(char),
    Open(Delimiter),
    Close(Delimiter),
    /// The value of a string literal.
    Text(String),
    /// Every other literal.
    Literal,
}

/// A token and its line, from 1.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
}

impl Token {
    /// The name, if this is an identifier or a keyword.
    pub(crate) fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }
}

/// One Rust file.
pub(crate) struct Source<'a> {
    /// Relative to the root of the workspace.
    pub(crate) path: &'a str,
    pub(crate) text: &'a str,
    pub(crate) tokens: Vec<Token>,
}

impl<'a> Source<'a> {
    /// Reads `text`. Fails where brackets do not match or a literal does not end.
    pub(crate) fn parse(path: &'a str, text: &'a str) -> Result<Self, Finding> {
        let stream = TokenStream::from_str(text).map_err(|error| {
            Finding::new(path, error.span().start().line, format!("this is no Rust: {error}"))
        })?;
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        Ok(Self { path, text, tokens })
    }

    /// The token at `at`, if there is one.
    pub(crate) fn kind(&self, at: usize) -> Option<&Kind> {
        self.tokens.get(at).map(|token| &token.kind)
    }

    /// The name at `at`, if there is one.
    pub(crate) fn ident(&self, at: usize) -> Option<&str> {
        self.tokens.get(at).and_then(Token::ident)
    }

    /// True when `::` is at `at`.
    pub(crate) fn is_path_separator(&self, at: usize) -> bool {
        [at, at + 1].iter().all(|&at| self.kind(at) == Some(&Kind::Punct(':')))
    }

    /// True when the token at `at` goes on with a path: `::` is before it.
    pub(crate) fn continues_path(&self, at: usize) -> bool {
        at >= 2 && self.is_path_separator(at - 2)
    }

    /// The index of the bracket that closes the one at `open`.
    pub(crate) fn close_of(&self, open: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token.kind {
                Kind::Open(_) => depth += 1,
                Kind::Close(_) if depth == 1 => return Some(at),
                Kind::Close(_) => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        None
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Ident(name) => tokens.push(Token { kind: Kind::Ident(name.to_string()), line }),
            TokenTree::Punct(punct) => tokens.push(Token { kind: Kind::Punct(punct.as_char()), line }),
            TokenTree::Literal(literal) => tokens.push(Token { kind: kind_of(literal), line }),
            TokenTree::Group(group) => {
                tokens.push(Token { kind: Kind::Open(group.delimiter()), line });
                flatten(group.stream(), tokens);
                let line = group.span_close().end().line;
                tokens.push(Token { kind: Kind::Close(group.delimiter()), line });
            }
        }
    }
}

fn kind_of(literal: Literal) -> Kind {
    match syn::Lit::new(literal) {
        syn::Lit::Str(text) => Kind::Text(text.value()),
        _ => Kind::Literal,
    }
}
