// Every SKU, and one model by several of them in one account.
using '../main.bicep'

param environmentName = 'provisioned'
param location = 'swedencentral'
param accounts = [
  {
    name: 'sweden'
    region: 'swedencentral'
    dataZone: 'eu'
    weight: 3
    deployments: [
      { name: 'mini', model: 'gpt-5.4-mini', version: '2026-03-17', sku: 'GlobalStandard', capacity: 50 }
      { name: 'mini-eu', model: 'gpt-5.4-mini', sku: 'DataZoneStandard', capacity: 50 }
      { name: 'mini-here', model: 'gpt-5.4-mini', sku: 'Standard', capacity: 20 }
      {
        name: 'mini-ptu'
        model: 'gpt-5.4-mini'
        sku: 'ProvisionedManaged'
        capacity: 50
        since: '2026-12-01'
        spilloverDeploymentName: 'mini-here'
      }
      { name: 'large-ptu', model: 'gpt-5.4', alias: 'large', sku: 'DataZoneProvisionedManaged', capacity: 15 }
      { name: 'mini-batch', model: 'gpt-5.4-mini', sku: 'GlobalBatch', capacity: 100 }
    ]
  }
  {
    name: 'virginia'
    region: 'eastus2'
    dataZone: 'us'
    priority: 2
    provisionedPriority: 1
    deployments: [
      { name: 'mini-ptu', model: 'gpt-5.4-mini', sku: 'GlobalProvisionedManaged', capacity: 100 }
      { name: 'tuned', model: 'gpt-4.1-mini', alias: 'tuned', sku: 'DeveloperTier', capacity: 10 }
      { name: 'mini-batch', model: 'gpt-5.4-mini', sku: 'DataZoneBatch', capacity: 100 }
    ]
  }
]
param models = {
  large: { fallbacks: ['gpt-5.4-mini'] }
}
param limits = {
  defaults: { tokens_per_minute: 100000, budget_usd: json('12.5'), budget_period: 'day' }
}
