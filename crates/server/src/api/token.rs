//! `fleet.v1.TokenService`.

use fleet_client::Token as Secret;
use fleet_core::{CreateToken, JoinToken, Operation, Rejection, RevokeToken};
use fleet_proto::{
    convert::api as convert,
    error::{from_rejection, invalid_field},
    resource,
    v1::{
        CreateTokenRequest, CreateTokenResponse, ListTokensRequest, ListTokensResponse,
        RevokeTokenRequest, RevokeTokenResponse, Token, token_service_server::TokenService,
    },
};
use fleet_types::TokenId;
use rand::RngCore;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::Api;

/// Life of a token whose maker names none: one hour.
const TTL_MS: u64 = 3_600_000;

fn show(token: &JoinToken) -> Token {
    Token {
        name: format!("tokens/{}", token.id),
        role: convert::role(token.role).into(),
        uses_left: token.uses_left,
        expire_time: Some(convert::timestamp(token.expires)),
        create_time: Some(convert::timestamp(token.created)),
    }
}

fn ttl_ms(request: &CreateTokenRequest) -> Result<u64, Status> {
    let Some(ttl) = request.ttl else { return Ok(TTL_MS) };
    let ms = u64::try_from(ttl.seconds).ok().and_then(|s| s.checked_mul(1_000));
    ms.ok_or_else(|| {
        invalid_field("TOKEN_TERMS_INVALID", "ttl", &ttl.seconds.to_string(), "is negative")
    })
}

#[tonic::async_trait]
impl TokenService for Api {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let request = request.into_inner();
        let (mut id, mut secret) = ([0; 6], [0; 32]);
        rand::rng().fill_bytes(&mut id);
        rand::rng().fill_bytes(&mut secret);
        let id: TokenId = const_hex::encode(id).parse().expect("12 hexadecimal digits");
        let operation = Operation::CreateToken(CreateToken {
            token: id.clone(),
            secret_sha256: Sha256::digest(secret).into(),
            role: convert::parse_role(request.role()),
            ttl_ms: ttl_ms(&request)?,
            uses: request.uses.max(1),
        });
        self.proposer.submit(operation).await?;
        let token = self.raft.read(|state| state.tokens().get(&id).map(show));
        let ca_sha256 = self.authority.sha256().map_err(|e| Status::internal(e.to_string()))?;
        let secret = Secret { ca_sha256, id, secret }.reveal();
        Ok(Response::new(CreateTokenResponse { token, secret }))
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let request = request.into_inner();
        let (size, after) = convert::parse_page(request.page_size, &request.page_token)?;
        let tokens: Vec<Token> = self
            .read(|state| {
                let tokens = state.tokens().values().map(show);
                let rest =
                    tokens.filter(|token| after.is_none_or(|after| token.name.as_str() > after));
                rest.take(size).collect()
            })
            .await?;
        let full = tokens.len() == size;
        let next_page_token =
            tokens.last().filter(|_| full).map(|t| t.name.clone()).unwrap_or_default();
        Ok(Response::new(ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let name = request.into_inner().name;
        let id = resource::parse_simple("name", "tokens", &name)?;
        let token = id.parse().map_err(|_| from_rejection(&Rejection::TokenUnknown))?;
        self.proposer.submit(Operation::RevokeToken(RevokeToken { token })).await?;
        Ok(Response::new(RevokeTokenResponse {}))
    }
}
