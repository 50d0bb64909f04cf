// The sections of the configuration (docs/configuration.md), so that a mistyped key stops the deployment. Bicep has no
// numbers with a fraction: what may be one is `any`, and is written json('0.5'). The gateway checks the values.

@export()
@description('Limits of consumers, a team or a model.')
@sealed()
type consumerLimits = {
  requests_per_minute: int?
  tokens_per_minute: int?
  token_quota: int?
  token_quota_period: any?
  request_quota: int?
  request_quota_period: any?
  quota_counts: ('all' | 'success')?
  budget_usd: any?
  budget_period: any?
  max_concurrent: int?
  time_zone: string?
  soft: bool?
  estimate: ('max' | 'learned' | 'none')?
}

@export()
@description('A share of a model\'s calls that goes to another model.')
@sealed()
type variant = {
  model: string
  share: any
}

@export()
@description('The section `models`, by model.')
type modelSettings = {
  *: model
}

@export()
@description('Settings of a model beyond its deployments.')
@sealed()
type model = {
  fallbacks: string[]?
  aliases: string[]?
  limits: consumerLimits?
  fallback_on: ('unavailable' | 'context_window' | 'content_filter')[]?
  hedge: bool?
  canary: variant?
  shadow: variant?
  prompt_cache_affinity: bool?
  first_byte: any?
  tier_fallback: bool?
  completions_as_chat: bool?
  retires: string?
  format: ('openai' | 'anthropic')?
  @sealed()
  replaced_by: {
    model: string
    from: string
  }?
}

@export()
@description('The section `limits`.')
@sealed()
type limitSettings = {
  defaults: consumerLimits?
  users: consumerLimits?
  teams: {
    *: consumerLimits
  }?
  @sealed()
  addresses: {
    connections: int?
    requests_per_minute: int?
    tokens_per_minute: int?
    request_quota: int?
    request_quota_period: any?
    quota_counts: ('all' | 'success')?
    time_zone: string?
    estimate: ('max' | 'learned' | 'none')?
  }?
  contact: string?
  unpriced: ('warn' | 'refuse')?
  @sealed()
  headers: {
    remaining_tokens: string?
    consumed_tokens: string?
  }?
  @sealed()
  webhook: {
    url: string
    secret_env: string
  }?
}

@export()
@description('An event that people are told of.')
type alertEvent =
  | 'quota_reached'
  | 'backend_ejected'
  | 'credentials_refused'
  | 'safe_mode_began'
  | 'safe_mode_ended'
  | 'usage_rows_waiting'
  | 'usage_rows_lost'
  | 'configuration_refused'
  | 'model_retires'
  | 'key_expires'
  | 'access_requested'
  | 'access_approved'
  | 'access_declined'

@export()
@description('A receiver of alerts.')
@sealed()
type alertReceiver = {
  kind: ('generic' | 'teams' | 'slack')?
  url: string?
  url_env: string?
  secret_env: string?
  events: alertEvent[]?
}

@export()
@description('A bundle of models and limits that keys subscribe to.')
@sealed()
type product = {
  models: string[]?
  regions: string[]?
  data_zones: string[]?
  limits: consumerLimits?
  shared_limits: consumerLimits?
  teams: string[]?
}

@export()
@description('A team: what its keys may use, their limits together, and its owners.')
@sealed()
type team = {
  models: string[]?
  regions: string[]?
  data_zones: string[]?
  limits: consumerLimits?
  owners: string[]?
}

@export()
@description('The section `timeouts`, in seconds.')
@sealed()
type timeoutSettings = {
  connect: any?
  first_byte: any?
  total: any?
  stream: any?
  request_body: any?
  socket: any?
  socket_idle: any?
}

@export()
@description('A rule of `entra.callers`: whom it admits, and what it grants.')
@sealed()
type callerRule = {
  app_role: string?
  group: string?
  app: string?
  object: string?
  product: string?
  team: string?
  limits: consumerLimits?
  models: string[]?
  regions: string[]?
  data_zones: string[]?
}

@export()
@description('The other sections, which no parameter composes.')
@sealed()
type otherSections = {
  products: {
    *: product
  }?
  teams: {
    *: team
  }?
  @sealed()
  end_users: {
    header: string?
    plain: bool?
  }?
  prices: object[]?
  @sealed()
  alerts: {
    webhooks: alertReceiver[]?
  }?
  azure_monitor: string?
  @sealed()
  client_address: {
    header: string?
    hops: int?
  }?
  @sealed()
  ledger: {
    durability: ('committed' | 'recorded' | 'deferred')?
    overflow_directory: string?
    overflow_bytes: int?
    keep_months: int?
  }?
  @sealed()
  allowed: {
    hosts: string[]?
    api_keys: {
      *: string
    }?
  }?
  allowed_networks: string[]?
  @sealed()
  retry: {
    count: int?
    interval: any?
    delta: any?
    max_interval: any?
  }?
  max_request_bytes: int?
  max_upload_bytes: int?
  heartbeat_seconds: any?
  adopt_unknown_ids: bool?
  @sealed()
  entra: {
    authority: string?
    page_client_id: string?
    tenants: string[]
    audiences: string[]
    callers: callerRule[]?
  }?
  @sealed()
  cors: {
    origins: string[]?
  }?
}
