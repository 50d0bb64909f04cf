// Every option at once that the other cases do not have.
using '../main.bicep'
extends '../main.bicepparam'

param environmentName = 'everything'
param location = 'swedencentral'
param modelAccess = 'everything'
param accounts = [
  {
    name: 'sweden'
    region: 'swedencentral'
    dataZone: 'eu'
    quotaGroup: 'global'
    deployments: [
      { name: 'gpt-5.4-mini', model: 'gpt-5.4-mini', version: '2026-03-17', sku: 'GlobalStandard', capacity: 100 }
      {
        name: 'claude-sonnet-5-5'
        model: 'claude-sonnet-5-5'
        format: 'Anthropic'
        sku: 'GlobalStandard'
        capacity: 50
      }
      {
        name: 'deepseek'
        model: 'DeepSeek-V4'
        alias: 'deepseek-v4'
        format: 'DeepSeek'
        sku: 'GlobalStandard'
        capacity: 50
      }
    ]
  }
]
param claudeCustomer = { organizationName: 'Contoso', industry: 'technology', countryCode: 'SE' }
param models = {
  'gpt-5.4-mini': {
    aliases: ['small']
    limits: { requests_per_minute: 600, soft: true }
    fallback_on: ['unavailable']
    hedge: true
  }
}
param limits = {
  teams: { search: { budget_usd: 500, budget_period: 'month' } }
  addresses: { requests_per_minute: 300 }
  webhook: { url: 'https://alerts.contoso.com/tollgate', secret_env: 'WEBHOOK_SECRET' }
}
param timeouts = { first_byte: json('7.5'), total: 200 }
param sections = {
  ledger: { durability: 'deferred', keep_months: 13 }
  client_address: { header: 'x-forwarded-for', hops: 2 }
  heartbeat_seconds: 10
  entra: {
    tenants: ['11111111-1111-1111-1111-111111111111']
    audiences: ['api://tollgate']
    callers: [{ app_role: 'Gateway.Call', team: 'search', limits: { tokens_per_minute: 50000 } }]
  }
}
param exportContainer = 'costs'
param operatorPrincipalId = '00000000-0000-0000-0000-0000000000aa'
param operatorPrincipalType = 'ServicePrincipal'
param managementKey = 'in-the-settings'
param secretSettings = { WEBHOOK_SECRET: 'a-secret' }
param alwaysReadyInstances = 2
param zoneRedundant = true
param updateStrategy = 'Recreate'
param allowedIpRanges = ['198.51.100.0/24', '203.0.113.7/32']
param alertEmail = 'operators@contoso.com'
param monthlyBudgetUsd = 2000
param budgetStart = '2026-12-01'
param lockState = true
param purgeProtection = true
param restoreDeleted = true
param tags = { team: 'platform' }
