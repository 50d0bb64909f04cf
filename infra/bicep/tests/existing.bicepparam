// No account is created: two exist, in other groups and subscriptions; one is Foundry's, with models of other makers.
using '../main.bicep'

param environmentName = 'existing'
param location = 'swedencentral'
param privateNetwork = true
param telemetry = false
param operatorPrincipalId = '00000000-0000-0000-0000-0000000000aa'
param existingAccounts = [
  {
    name: 'contoso'
    resourceId: '/subscriptions/00000000-0000-0000-0000-000000000002/resourceGroups/ai/providers/Microsoft.CognitiveServices/accounts/contoso'
    region: 'swedencentral'
    dataZone: 'eu'
    deployment: 'data_zone'
    kind: 'provisioned'
    capacity: [
      { model: 'gpt-5.4-mini', units: 50, from: '2026-12-01', usd_per_unit_hour: json('0.7') }
    ]
    models: { 'gpt-5.4-mini': 'mini' }
    privateEndpoint: true
  }
  {
    name: 'foundry'
    resourceId: '/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/ai/providers/Microsoft.CognitiveServices/accounts/foundry'
    endpoint: 'https://foundry.services.ai.azure.com'
    region: 'eastus2'
    models: { 'gpt-5.4-mini': 'mini', 'grok-4': 'grok-4' }
    priority: 2
    foundry: true
  }
]
